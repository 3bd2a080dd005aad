"""The text that decides on a correction: every kind, of which nothing was fitted to any.

More of each kind is read than swaps and tuning decide on, so that there is an interval for each.
"""

from __future__ import annotations

from pathlib import Path

from kanna._util.units import format_size
from kanna.calibration import texts
from kanna.calibration.windows import cut
from kanna.errors import KannaError
from kanna.evaluation.windows import text_for
from kanna.hardware.memory import memory as machine
from kanna.model import Model
from kanna.optimization.acceptance import EVALUATED
from kanna.optimization.context import Workspace
from kanna.optimization.kl_scorer import HeldOutWindows, Window
from kanna.sources import Source, packages

WINDOWS = 6
"""Of each kind of text: from four on there is an interval."""
_EVERYTHING = 1 << 40


def deciding_windows(
    workspace: Workspace, held: HeldOutWindows, text: str | Path | None, memory: int
) -> list[Window]:
    """Windows of every kind of text; [] with a note where nothing can be corrected.

    Args:
        workspace: The source.
        held: Calibration text that is left over.
        text: What the model is evaluated on; None: as `evaluate` does.
        memory: Bytes that a correction takes.
    """
    free, why = machine().available, ""
    if held.fitted:
        why = "no calibration text was left over to decide on"
    elif memory > free:
        why = f"it takes {format_size(memory)} of memory, {format_size(free)} are free"
    else:
        try:
            evaluated = evaluated_windows(workspace.source, workspace.model, text)
            return [*held_out_windows(held), *evaluated]
        except KannaError as error:
            why = f"the text to evaluate on is needed to decide, and {error.found}"
    workspace.context.note(f"values were not chosen again: {why}")
    return []


def held_out_windows(held: HeldOutWindows) -> list[Window]:
    """WINDOWS of each kind of calibration text that nothing was fitted to; none of the report's.

    Args:
        held: Calibration text that is left over.
    """
    kinds: dict[str, list[Window]] = {}
    for kind, ids in (*held.trial, *held.rest):
        kinds.setdefault(kind, []).append((kind, ids))
    return [window for windows in kinds.values() for window in windows[:WINDOWS]]


def evaluated_windows(source: Source, model: Model, text: str | Path | None) -> list[Window]:
    """The last WINDOWS of the text that the model is evaluated on.

    An evaluation reads the first windows of a long text: those are not among these.

    Args:
        source: Of the model.
        model: Whose tokenizer cuts the text.
        text: A file; None: as `evaluate` does.

    Raises:
        KannaError: The text cannot be read, or is too short.
    """
    path = text_for(source, text) or packages.wikitext()
    documents, _ = texts.documents([path], model)
    ids = cut(documents, model, tokens=_EVERYTHING).ids[-WINDOWS:]
    return [(EVALUATED, [int(i) for i in window]) for window in ids]
