"""The first chart: size, KL divergence, speed, memory and format of every artefact.

Size runs across and KL divergence up (logarithmic); speed is the colour of a mark, peak memory its
area, and the format its shape.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from kanna import formats as known_formats
from kanna.escaping import html_text
from kanna.report import legend
from kanna.report.plot import (
    NARROW,
    SMALLEST_KL,
    WIDE,
    Axes,
    Box,
    Frame,
    colour,
    cut_ticks,
    line,
    place,
    text,
)

_AXIS = 50
"""Height of the ticks and the title of the axis below the plot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One artefact.

    Attributes:
        name: Its preset.
        megabytes: Size of the file.
        kl: Mean KL divergence in nats.
        speed: Tokens per second, or None where it was not measured.
        best: Whether it is recommended.
        memory: Peak memory in MB, or None where it was not measured.
        format: Name of its format.
        baseline: Whether it is the 16-bit file that others are compared with.
    """

    name: str
    megabytes: float
    kl: float
    speed: float | None
    best: bool
    memory: float | None = None
    format: str = known_formats.DEFAULT
    baseline: bool = False

    @property
    def summary(self) -> str:
        """Name and numbers in a line."""
        parts = [f"{self.name}: {self.megabytes:.1f} MB, KL {self.kl:.5f}"]
        parts += [f"{self.speed:.1f} tokens/s"] if self.speed else []
        return ", ".join(parts + ([f"peak memory {self.memory:.0f} MB"] if self.memory else []))


def points(data: dict[str, Any]) -> list[Point]:
    """The rows that have a size and a KL divergence."""
    best = data["recommended"]["name"]
    return [
        Point(
            name=row["name"],
            megabytes=row["file_bytes"] / 1e6,
            kl=max(row["kl_mean"], SMALLEST_KL),
            speed=row["gen_tps"],
            best=row["name"] == best,
            memory=row["peak_bytes"] / 1e6 if row["peak_bytes"] else None,
            format=row.get("format", known_formats.DEFAULT),
            baseline=row["role"] == "baseline",
        )
        for row in data["rows"]
        if row["role"] != "floor" and row["file_bytes"] and row["kl_mean"] is not None
    ]


def chart(data: dict[str, Any]) -> str:
    """The chart as SVG, wide and narrow; a sentence instead when nothing was evaluated."""
    marks = points(data)
    if not marks:
        return '<p class="muted">No file was evaluated, so there is nothing to draw.</p>'
    return "\n".join(_draw(data, marks, frame) for frame in (WIDE, NARROW))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scales:
    """How speed and memory of the artefacts become colour and area."""

    slowest: float
    fastest: float
    least: float
    most: float

    def colour(self, speed: float | None) -> str:
        if speed is None or self.fastest == self.slowest:
            return colour(0.5)
        return colour((speed - self.slowest) / (self.fastest - self.slowest))

    def radius(self, memory: float | None) -> float:
        return 4 + 11 * math.sqrt(memory / self.most) if memory else 8.0


def _scales(marks: list[Point]) -> _Scales:
    speeds = [p.speed for p in marks if p.speed] or [0.0]
    memories = [p.memory for p in marks if p.memory] or [0.0]
    return _Scales(
        slowest=min(speeds), fastest=max(speeds), least=min(memories), most=max(memories)
    )


def _draw(data: dict[str, Any], marks: list[Point], frame: Frame) -> str:
    formats = list(dict.fromkeys(p.format for p in marks))
    scales, wide = _scales(marks), frame is WIDE
    if scales.fastest:
        height = legend.ROW * legend.rows(formats, memory=scales.most > 0, wide=wide)
        below = _AXIS + height + 8
        frame = replace(frame, height=frame.height - frame.bottom + below, bottom=below)
    floor = next(
        (r["kl_mean"] for r in data["rows"] if r["role"] == "floor" and r["kl_mean"]), None
    )
    axes = _axes(marks, floor, frame, ticks=6 if wide else 4)
    parts = [
        f'<svg viewBox="0 0 {frame.width} {frame.height}" role="img" class="chart {frame.name}" '
        f'aria-labelledby="title-{frame.name} desc-{frame.name}">',
        f'<title id="title-{frame.name}">Size, quality and speed of '
        f"{html_text(data['name'])}</title>",
        f'<desc id="desc-{frame.name}">{html_text(describe(data))}</desc>',
    ]
    parts += axes.draw("file size, MB (left is smaller)", "mean KL, nats (down is closer)")
    taken: list[Box] = []
    if floor:
        parts.append(_draw_floor(axes, floor, taken, wide=wide))
    parts += _draw_marks(axes, marks, scales, taken)
    if scales.fastest:
        parts.append(
            legend.legend(
                legend.Keys(
                    speeds=(scales.slowest, scales.fastest),
                    memories=(scales.least, scales.most) if scales.most else None,
                    formats=formats,
                ),
                left=frame.left,
                top=frame.base + _AXIS,
                wide=wide,
                radius=scales.radius,
                mark=_mark,
                gradient=f"speed-{frame.name}",
            )
        )
    parts.append("</svg>")
    return "\n".join(part for part in parts if part)


def _axes(marks: list[Point], floor: float | None, frame: Frame, *, ticks: int) -> Axes:
    """Axes that the candidates fill; the baseline is drawn at the edge where it is far away."""
    useful = [p for p in marks if not p.baseline] or marks
    lows = [p.kl for p in useful] + ([floor] if floor else [])
    least = max(min(lows), (floor or 0.0) * 0.9)
    high = max(max(p.kl for p in useful) * 1.6, least * 4)
    sizes = [p.megabytes for p in useful]
    smallest, largest = min(sizes), max(sizes)
    margin = max(0.08 * (largest - smallest), 0.02 * largest)
    x_ticks = cut_ticks(max(0.0, smallest - margin), largest + 1.5 * margin, ticks)
    beyond = any(p.kl < least for p in marks)  # room at the foot for what is closer still
    return Axes(frame=frame, x_ticks=x_ticks, low=least * (0.4 if beyond else 0.6), high=high)


def _draw_floor(axes: Axes, floor: float, taken: list[Box], *, wide: bool) -> str:
    """The line of what the runtime's own rounding costs, whatever the weights."""
    frame, at = axes.frame, axes.y(max(floor, SMALLEST_KL))
    words = "runtime rounding: no file is closer in llama.cpp" if wide else "runtime rounding"
    taken += [
        (frame.left, at - 1, frame.end, at + 1),
        (frame.left, at - 17, frame.left + 7.0 * len(words), at),
    ]
    return (
        line("floor", (frame.left, at), (frame.end, at))
        + "\n"
        + text(frame.left + 6, at - 5, words, "tick", "start")
    )


def _draw_marks(axes: Axes, marks: list[Point], scales: _Scales, taken: list[Box]) -> list[str]:
    """The marks, large ones first so that they hide no small one, and their labels."""
    parts: list[str] = []
    radii = {p.name: scales.radius(p.memory) for p in marks}
    at = {p.name: _centre(axes, p, radii[p.name]) for p in marks}
    for p in marks:
        (x, y), r = at[p.name], radii[p.name]
        taken.append((x - r, y - r, x + r, y + r))
    for p in sorted(marks, key=lambda p: -radii[p.name]):
        (x, y), r = at[p.name], radii[p.name]
        ring = f'<circle class="ring" cx="{x:.1f}" cy="{y:.1f}" r="{r + 5:.1f}"/>' if p.best else ""
        parts.append(
            f"<g><title>{html_text(p.summary)}</title>"
            + _mark(p.format, x, y, r, scales.colour(p.speed))
            + ring
            + "</g>"
        )
    for p in marks:
        label = ("★ " if p.best else "") + p.name
        if not axes.holds(p.megabytes, p.kl):
            label += f" → {p.megabytes:.3g} MB"
        radius = radii[p.name] + (5 if p.best else 0)
        left, base = place(label, *at[p.name], radius, taken, axes.frame)
        parts.append(text(left, base, label, "label best" if p.best else "label", "start"))
    return parts


def _centre(axes: Axes, p: Point, radius: float) -> tuple[float, float]:
    """Where a mark is; one beyond the axes lies whole inside of their edge."""
    x, y = axes.x(p.megabytes), axes.y(p.kl)
    if axes.holds(p.megabytes, p.kl):
        return x, y
    return min(x, axes.frame.end - radius), min(y, axes.frame.base - radius - 2)


def _mark(format: str, x: float, y: float, radius: float, fill: str) -> str:
    """A point, of the shape that the format has in charts."""
    symbol = known_formats.get(format).symbol
    if not symbol:
        return f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{fill}"/>'
    corners = " ".join(f"{x + radius * a:.1f},{y + radius * b:.1f}" for a, b in symbol)
    return f'<polygon class="dot" points="{corners}" fill="{fill}"/>'


def describe(data: dict[str, Any]) -> str:
    """What the chart shows, in words."""
    sentences = [
        f"{p.name}: {p.megabytes:.1f} MB, KL divergence {p.kl:.5f}"
        + (f", {p.speed:.0f} tokens per second" if p.speed else "")
        + (f", {p.memory:.0f} MB of peak memory" if p.memory else "")
        for p in points(data)
    ]
    best = data["recommended"]["name"]
    return (
        "File size across, KL divergence up. "
        + "; ".join(sentences)
        + "."
        + (f" Recommended: {best}." if best else "")
    )
