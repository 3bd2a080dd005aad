"""What speed costs: files as predicted and measured, and the least divergence at every speed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kanna._util.units import format_size
from kanna.escaping import html_text
from kanna.report.plot import (
    NARROW,
    SMALLEST_KL,
    WIDE,
    Axes,
    Box,
    Frame,
    cut_ticks,
    line,
    place,
    text,
)
from kanna.report.tables import small_table

_NONE = "–"


def speeds(speed: dict[str, Any] | None) -> str:
    """Returns the markup of a budget of time; empty where bytes alone counted."""
    if not speed:
        return ""
    files = small_table(
        _caption(speed),
        ("file", "size", "KL divergence", "tokens/s predicted", "measured", "predicted ÷ measured"),
        (_file(row) for row in speed["rows"]),
    )
    plans = small_table(
        "Plans of this size and of others at other speeds: the least divergence, as predicted.",
        ("file of at most", "tokens/s", "bytes of matrices", "KL divergence"),
        (
            (
                format_size(size["bytes"]),
                f"{p['tokens_per_second']:.4g}",
                format_size(p["bytes"]),
                f"{p['kl']:.3g}",
            )
            for size in [speed, *speed["other_sizes"]]
            for p in size["curve"]
        ),
    )
    return files + _chart(speed) + plans


def _points(size: dict[str, Any]) -> list[tuple[float, float]]:
    """Tokens per second and KL divergence of the plans of a size."""
    return [(p["tokens_per_second"], max(p["kl"], SMALLEST_KL)) for p in size["curve"]]


def _caption(speed: dict[str, Any]) -> str:
    asked = f"at least {speed['floor']:.4g} tokens/s" if speed["floor"] else "no least speed"
    words = "costs measured" if speed["basis"] == "measured" else "costs by the roofline"
    known = speed["error"] is not None
    error = f", expected within a factor of {1 + speed['error']:.3g}" if known else ""
    threads = f", {speed['threads']} threads" if speed["threads"] else ""
    return html_text(
        f"Objective {speed['objective']}, {asked}; {words} on {speed['machine']}{threads}{error}. "
        "Measured is this machine."
    )


def _file(row: dict[str, Any]) -> tuple[str, ...]:
    predicted, measured = row["predicted"], row["measured"]
    return (
        row["name"],
        format_size(row["bytes"]) if row["bytes"] else _NONE,
        f"{row['kl']:.5f}" if row["kl"] is not None else _NONE,
        f"{predicted:.4g}" if predicted else _NONE,
        f"{measured:.4g}" if measured else _NONE,
        f"{predicted / measured:.2f}" if predicted and measured else _NONE,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """A file in the chart: its label, its KL divergence, tokens/s predicted and measured."""

    label: str
    kl: float
    predicted: float
    measured: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plans:
    """Tokens/s and KL divergence of plans: of the size of the file, and of other sizes."""

    planned: list[tuple[float, float]]
    others: dict[str, list[tuple[float, float]]]


def _chart(speed: dict[str, Any]) -> str:
    """Tokens per second across, KL divergence up, a line for each size: plans and files."""
    planned = _points(speed)
    if len({round(x, 6) for x, _ in planned}) < 2:
        return ""
    others = {format_size(size["bytes"]): _points(size) for size in speed["other_sizes"]}
    made = [
        _File(
            label=r["name"] + (f", {format_size(r['bytes'])}" if r["bytes"] else ""),
            kl=max(r["kl"], SMALLEST_KL),
            predicted=r["predicted"],
            measured=r["measured"],
        )
        for r in speed["rows"]
        if r["predicted"] and r["kl"] is not None
    ]
    plans = _Plans(planned=planned, others=others)
    return "\n".join(_draw(plans, made, speed["floor"], frame) for frame in (WIDE, NARROW))


def _draw(plans: _Plans, made: list[_File], floor: float | None, frame: Frame) -> str:
    planned = plans.planned + [point for points in plans.others.values() for point in points]
    across = [x for x, _ in planned] + [f.predicted for f in made]
    across += [f.measured for f in made if f.measured] + ([floor] if floor else [])
    up = [y for _, y in planned] + [f.kl for f in made]
    ticks = cut_ticks(min(across) * 0.98, max(across) * 1.02, 6 if frame is WIDE else 4)
    axes = Axes(frame=frame, x_ticks=ticks, low=min(up) * 0.7, high=max(up) * 1.4)
    name = f"speeds-{frame.name}"
    words = "; ".join(f"{f.label}: {f.predicted:.4g} tokens/s, {f.kl:.3g} nats" for f in made)
    parts = [
        f'<svg viewBox="0 0 {frame.width} {frame.height}" role="img" class="chart {frame.name}" '
        f'aria-labelledby="title-{name} desc-{name}">',
        f'<title id="title-{name}">KL divergence by tokens per second</title>',
        f'<desc id="desc-{name}">{html_text(words)}</desc>',
        *axes.draw("tokens/s generated (right is faster)", "KL divergence, nats (down is closer)"),
    ]
    if floor:
        parts.append(line("floor", (axes.x(floor), frame.top), (axes.x(floor), frame.base)))
    parts.append(_curve("planned", plans.planned, axes))
    for size, points in plans.others.items():
        x, y = points[-1]
        parts += [
            _curve("sample", points, axes),
            text(axes.x(x) - 4, axes.y(y) - 6, size, "tick", "end"),
        ]
    parts += _marks(made, [(axes.x(x), axes.y(y)) for x, y in planned], axes)
    return "\n".join([*parts, _legend(frame, floor), "</svg>"])


def _curve(kind: str, points: list[tuple[float, float]], axes: Axes) -> str:
    path = " ".join(f"{axes.x(x):.1f},{axes.y(y):.1f}" for x, y in points)
    return f'<polyline class="{kind}" points="{path}"/>'


def _marks(made: list[_File], plans: list[tuple[float, float]], axes: Axes) -> list[str]:
    """Each file where it was predicted, with a line to where it was measured; then the labels."""
    frame, parts = axes.frame, list[str]()
    taken: list[Box] = [(x - 3, y - 3, x + 3, y + 3) for x, y in plans]
    for file in made:
        cx, cy = axes.x(file.predicted), axes.y(file.kl)
        taken.append((cx - 7, cy - 7, cx + 7, cy + 7))
        if file.measured:
            at = axes.x(file.measured)
            taken.append((min(cx, at) - 7, cy - 7, max(cx, at) + 7, cy + 7))
            parts += [line("span", (cx, cy), (at, cy)), _measured(at, cy)]
        parts.append(f'<circle class="mark" cx="{cx:.1f}" cy="{cy:.1f}" r="7"/>')
    for file in made:
        cx, cy = axes.x(file.predicted), axes.y(file.kl)
        left, base = place(file.label, cx, cy, 7, taken, frame)
        parts.append(text(left, base, file.label, "label", "start"))
    return parts


def _measured(x: float, y: float) -> str:
    return f'<circle class="ring" cx="{x:.1f}" cy="{y:.1f}" r="6"/>'


def _legend(frame: Frame, floor: float | None) -> str:
    """What lines and marks mean."""
    rows = ["plans of this size, predicted", "of others", "a file, predicted", "measured"]
    rows += [f"least speed, {floor:.4g}"] if floor else []
    across = (0, 230, 335, 490, 595) if frame is WIDE else (0, 220, 0, 220, 0)
    parts: list[str] = []
    for number, (words, step) in enumerate(zip(rows, across, strict=False)):
        at = frame.left + step
        y = frame.height - 26 if frame is WIDE else frame.base + 52 + number // 2 * 15
        marks = (
            line("planned", (at, y), (at + 22, y)),
            line("sample", (at, y), (at + 22, y)),
            f'<circle class="mark" cx="{at + 11}" cy="{y}" r="6"/>',
            _measured(at + 11, y),
            line("floor", (at, y), (at + 22, y)),
        )
        parts += [marks[number], text(at + 30, y + 4, words, "tick", "start")]
    return "".join(parts)
