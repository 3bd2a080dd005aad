"""The chart of losses by step: of training, smoothed, and of the held-out part."""

from __future__ import annotations

from collections.abc import Sequence

from kanna.escaping import html_text
from kanna.report.plot import NARROW, WIDE, Frame, cut_ticks, line, linear_ticks, text

_SMOOTHED = 24
"""Points of the smoothed line, about."""

Point = tuple[float, float]


def losses(history: Sequence[dict[str, float | None]]) -> str:
    """Returns the chart as SVG, wide and narrow; empty for a run of a single step.

    Args:
        history: `step` with `loss` or `held_out_loss`; None where a loss was no number.
    """
    learned = _points(history, "loss")
    held_out = _points(history, "held_out_loss")
    if len(learned) + len(held_out) < 3:
        return ""
    return "\n".join(_draw(learned, held_out, frame) for frame in (WIDE, NARROW))


def _points(history: Sequence[dict[str, float | None]], name: str) -> list[Point]:
    points = [(one["step"], one.get(name)) for one in history]
    return [(step, value) for step, value in points if step is not None and value is not None]


def _smoothed(points: Sequence[Point]) -> list[Point]:
    """Means of as many neighbours as make the line readable."""
    count = max(1, len(points) // _SMOOTHED)
    parts = [points[i : i + count] for i in range(0, len(points), count)]
    return [
        (sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts
    ]


def _draw(learned: Sequence[Point], held_out: Sequence[Point], frame: Frame) -> str:
    smoothed = _smoothed(learned)
    shown = [*smoothed, *held_out]
    values = [value for _, value in shown]
    x_ticks = linear_ticks(0.0, max(step for step, _ in shown), 6 if frame is WIDE else 4)
    y_ticks = cut_ticks(min(values), max(values), 5)

    def at(point: Point) -> Point:
        across = (point[0] - x_ticks[0]) / (x_ticks[-1] - x_ticks[0])
        up = (point[1] - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return (
            frame.left + across * (frame.end - frame.left),
            frame.base - up * (frame.base - frame.top),
        )

    name = f"losses-{frame.name}"
    parts = [
        f'<svg viewBox="0 0 {frame.width} {frame.height}" role="img" class="chart {frame.name}" '
        f'aria-labelledby="title-{name} desc-{name}">',
        f'<title id="title-{name}">Losses by step</title>',
        f'<desc id="desc-{name}">{html_text(_sentence(learned, held_out))}</desc>',
    ]
    for tick in x_ticks:
        x, _ = at((tick, y_ticks[0]))
        parts.append(line("grid", (x, frame.top), (x, frame.base)))
        parts.append(text(x, frame.base + 18, f"{tick:g}", "tick", "middle"))
    for tick in y_ticks:
        _, y = at((x_ticks[0], tick))
        parts.append(line("grid", (frame.left, y), (frame.end, y)))
        parts.append(text(frame.left - 8, y + 4, f"{tick:.4g}", "tick", "end"))
    for kind, points in (("sample", smoothed), ("planned", held_out)):
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(at, points))
        parts.append(f'<polyline class="{kind}" points="{path}"/>')
    for point in held_out:
        x, y = at(point)
        tip = f"step {point[0]:g}: held-out loss {point[1]:.4f}"
        parts.append(
            f"<g><title>{html_text(tip)}</title>"
            f'<circle class="mark" cx="{x:.1f}" cy="{y:.1f}" r="5"/></g>'
        )
    middle = (frame.left + frame.end) / 2
    parts.append(text(middle, frame.base + 38, "step", "axis", "middle"))
    return "\n".join([*parts, *_legend(frame), "</svg>"])


def _legend(frame: Frame) -> list[str]:
    parts: list[str] = []
    for number, (kind, words) in enumerate((("sample", "training"), ("planned", "held out"))):
        left, top = frame.left + number * 150, frame.height - 22
        parts.append(line(kind, (left, top), (left + 22, top)))
        parts.append(text(left + 30, top + 4, words, "tick", "start"))
    return parts


def _sentence(learned: Sequence[Point], held_out: Sequence[Point]) -> str:
    sides = (("Training", learned), ("Held-out", held_out))
    return " ".join(
        f"{side} loss {points[0][1]:.4f} at step {points[0][0]:g}, {points[-1][1]:.4f} at step "
        f"{points[-1][0]:g}."
        for side, points in sides
        if points
    )
