"""The trials of a search on the page of a run: a picture of two goals, and a table of all."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kanna.escaping import html_text
from kanna.report.plot import (
    NARROW,
    WIDE,
    Box,
    Frame,
    line,
    linear_ticks,
    log_ticks,
    place,
    text,
)
from kanna.report.tables import small_table

Shown = Callable[[str, object], str]
"""A figure by its name, as people read it."""
_FRAMES = (replace(WIDE, height=420, bottom=56), replace(NARROW, height=380, bottom=56))
"""Without the room for a legend."""
_LOGARITHMIC = 20
"""The largest value ÷ the smallest from which on an axis is logarithmic."""


def trials(manifest: Mapping[str, Any], shown: Shown) -> str:
    """Returns the section of a search as HTML, or nothing where there was none.

    Args:
        manifest: As `manifest.json` has it.
        shown: How figures are written.
    """
    listed = sorted(manifest["trials"], key=lambda one: (not one["best"], one["number"]))
    if not listed:
        return ""
    variables = list(listed[0]["values"])
    goals = list(dict.fromkeys(goal for one in listed for goal in one["goals"]))
    rows = [
        [
            f"{'★ ' if one['best'] else ''}{one['number']}",
            *(str(one["values"].get(name, "–")) for name in variables),
            *(shown(goal.partition(".")[2], one["goals"].get(goal)) for goal in goals),
            one["state"] if one["feasible"] else "breaks a constraint",
        ]
        for one in listed
    ]
    heads = ("trial", *variables, *goals, "state")
    table = small_table("★: no other trial is better in every goal", heads, rows)
    shares = [(name, f"{share:.0%}") for name, share in manifest["importance"].items()]
    caption = "How much of the first goal each variable decides"
    importance = small_table(caption, ("variable", "share"), shares) if shares else ""
    return f"<h2>Search</h2>{_pictures(listed, goals, shown)}{table}{importance}"


def _pictures(listed: Sequence[Mapping[str, Any]], goals: Sequence[str], shown: Shown) -> str:
    measured = [one for one in listed if all(one["goals"].get(g) is not None for g in goals[:2])]
    if len(goals) < 2 or len(measured) < 2:
        return ""
    return "".join(_picture(measured, goals, shown, frame) for frame in _FRAMES)


@dataclass(frozen=True, slots=True)
class _Scale:
    """Where a value is between two ends of an axis."""

    low: float
    high: float
    is_logarithmic: bool
    start: float
    end: float

    @classmethod
    def of(cls, values: Sequence[float], start: float, end: float) -> _Scale:
        low, high = min(values), max(values)
        if low > 0 and high / low > _LOGARITHMIC:
            return cls(low / 1.3, high * 1.3, True, start, end)
        room = (high - low) * 0.08 or abs(high) * 0.1 or 1.0
        return cls(low - room, high + room, False, start, end)

    def at(self, value: float) -> float:
        if self.is_logarithmic:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        if self.is_logarithmic:
            return log_ticks(self.low, self.high)
        ticks = linear_ticks(self.low, self.high, 5)
        size = ticks[1] - ticks[0]
        rounded = [math.ceil(self.low / size) * size + i * size for i in range(len(ticks))]
        return [tick for tick in rounded if tick <= self.high]


def _picture(
    measured: Sequence[Mapping[str, Any]], goals: Sequence[str], shown: Shown, frame: Frame
) -> str:
    across, up = goals[1], goals[0]
    x = _Scale.of([one["goals"][across] for one in measured], frame.left, frame.end)
    y = _Scale.of([one["goals"][up] for one in measured], frame.base, frame.top)
    name = f"trials-{frame.name}"
    about = f"{len(measured)} trials: {up} by {across}; the table below has every value"
    parts = [
        f'<svg viewBox="0 0 {frame.width} {frame.height}" role="img" class="chart {frame.name}" '
        f'aria-labelledby="title-{name} desc-{name}">',
        f'<title id="title-{name}">{html_text(up)} by {html_text(across)}</title>',
        f'<desc id="desc-{name}">{html_text(about)}</desc>',
        *_grid(x, y, frame, (across, up), shown),
    ]
    taken: list[Box] = []
    marks = [(one, x.at(one["goals"][across]), y.at(one["goals"][up])) for one in measured]
    for one, left, top in marks:
        kind = "mark best-mark" if one["best"] else "sample"
        values = ", ".join(f"{k} {v}" for k, v in one["values"].items())
        tip = f"trial {one['number']}: {values}"
        parts.append(
            f"<g><title>{html_text(tip)}</title>"
            f'<circle class="{kind}" cx="{left:.1f}" cy="{top:.1f}" r="6"/></g>'
        )
        taken.append((left - 6, top - 6, left + 6, top + 6))
    for one, left, top in marks:
        if one["best"]:
            words = f"★ {one['number']}"
            where = place(words, left, top, 6, taken, frame)
            parts.append(text(*where, words, "label best", "start"))
    return "\n".join([*parts, "</svg>"])


def _grid(x: _Scale, y: _Scale, frame: Frame, goals: tuple[str, str], shown: Shown) -> list[str]:
    """Ticks and titles of both axes."""
    across, up = goals
    parts: list[str] = []
    for tick in x.ticks()[:: 1 if frame is _FRAMES[0] else 2]:
        at, words = x.at(tick), shown(across.partition(".")[2], tick)
        parts.append(line("grid", (at, frame.top), (at, frame.base)))
        parts.append(text(at, frame.base + 18, words, "tick", "middle"))
    for tick in y.ticks():
        at, words = y.at(tick), shown(up.partition(".")[2], tick)
        parts.append(line("grid", (frame.left, at), (frame.end, at)))
        parts.append(text(frame.left - 8, at + 4, words, "tick", "end"))
    centre, middle = (frame.left + frame.end) / 2, (frame.top + frame.base) / 2
    parts.append(text(centre, frame.base + 38, across, "axis", "middle"))
    turned = f'transform="rotate(-90 14 {middle:.0f})" x="14" y="{middle:.0f}"'
    parts.append(f'<text class="axis" text-anchor="middle" {turned}>{html_text(up)}</text>')
    return parts
