"""What files still solve of the tasks that guard them, and the questions that flipped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kanna._util.units import format_size
from kanna.escaping import html_text
from kanna.report.tables import small_table
from kanna.tasks.pairing import TaskFlip, TaskScore, from_json

_MOST_FLIPS = 12
"""Of each file, on the page."""


def behaviour(rows: Sequence[dict[str, Any]], guard: dict[str, Any] | None) -> str:
    """Returns what the tasks say of every file, and what a guard spent; empty for no task.

    Args:
        rows: The files as JSON has them.
        guard: What the guard came to, as JSON has it.
    """
    asked = [(row["name"], from_json(row.get("tasks") or [])) for row in rows]
    lines = [(name, score.name, score.words()) for name, scores in asked for score in scores]
    if not lines:
        return ""
    caption = (
        "Questions that the original and the file answered, greedily; losses with their 95 % "
        "interval."
    )
    table = small_table(caption, ("file", "task", "solved"), lines)
    return _guard(guard) + table + "".join(_flips(name, scores) for name, scores in asked)


def _guard(guard: dict[str, Any] | None) -> str:
    """Whether the tasks hold, and the files that were tried beyond the budget."""
    if not guard:
        return ""
    todo = f"; {guard['todo']}" if guard["todo"] else ""
    allowed = ", ".join(f"{task} {100 * part:g}" for task, part in guard["tolerances"].items())
    caption = (
        f"{guard['why'][:1].upper() + guard['why'][1:] + todo}. Points of each task that may "
        f"surely be lost: {allowed}."
    )
    if not guard["steps"]:
        return f'<p class="caption">{html_text(caption)}</p>'
    rows = [
        (
            format_size(step["file_bytes"]),
            f"{step['predicted']:.5f}",
            "; ".join(f"{s.name}: {s.words()}" for s in from_json(step["scores"])),
            "holds" if step["held"] else "lost",
        )
        for step in guard["steps"]
    ]
    table = small_table(caption, ("file", "nats predicted", "tasks", "guard"), rows)
    largest = guard["steps"][0]  # it is tried first
    if largest["held"]:
        return table
    return table + _flips(format_size(largest["file_bytes"]), from_json(largest["scores"]))


def _flips(name: str, scores: Sequence[TaskScore]) -> str:
    """Questions that flipped, those that were lost first, with what was asked and answered."""
    flips = [(score.name, flip) for score in scores for flip in score.flips]
    if not flips:
        return ""
    flips.sort(key=lambda one: one[1].became != "wrong")
    shown = flips[:_MOST_FLIPS]
    count = f"{len(shown)} of {len(flips)} flips" if len(flips) > 1 else "1 flip"
    items = "".join(_flip(task, flip) for task, flip in shown)
    return f"<details><summary>{html_text(name)}: {count}</summary>{items}</details>"


def _flip(task: str, flip: TaskFlip) -> str:
    """A question with both answers, line by line as they were written."""
    broken = "the file's answer" if flip.became == "wrong" else "the original's answer"
    pairs = (
        ("asked", "\n".join(flip.prompt)),
        ("expected", flip.expected),
        ("original", "\n".join(flip.reference)),
        ("file", "\n".join(flip.answer)),
        ("why", f"{broken}: {flip.why}"),
    )
    items = "".join(f"<dt>{term}</dt><dd>{html_text(text)}</dd>" for term, text in pairs)
    return f'<h3>{html_text(task)}: now {flip.became}</h3><dl class="flip">{items}</dl>'
