"""What speed costs: files as predicted and measured, and the least divergence at every speed."""

from __future__ import annotations

from typing import Any

from kanna._util.units import format_size
from kanna.escaping import html_text
from kanna.report.plot import NARROW, SMALLEST_KL, WIDE, Axes, Box, Frame, cut_ticks, place, text
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
    points = speed["curve"]
    plans = small_table(
        "Plans of this size at other speeds: the least divergence, as predicted.",
        ("tokens/s", "bytes of matrices", "KL divergence"),
        (
            (f"{p['tokens_per_second']:.4g}", format_size(p["bytes"]), f"{p['kl']:.3g}")
            for p in points
        ),
    )
    return files + _chart(points, speed["rows"]) + plans


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


def _chart(points: list[dict[str, Any]], rows: list[dict[str, Any]]) -> str:
    """Tokens per second across, KL divergence up: plans as predicted, files as measured."""
    planned = [(p["tokens_per_second"], max(p["kl"], SMALLEST_KL)) for p in points]
    if len({round(x, 6) for x, _ in planned}) < 2:
        return ""
    made = [
        (r["name"], r["predicted"], max(r["kl"], SMALLEST_KL))
        for r in rows
        if r["predicted"] and r["kl"] is not None
    ]
    return "\n".join(_draw(planned, made, frame) for frame in (WIDE, NARROW))


def _draw(
    planned: list[tuple[float, float]], made: list[tuple[str, float, float]], frame: Frame
) -> str:
    every = planned + [(x, y) for _, x, y in made]
    across, up = [x for x, _ in every], [y for _, y in every]
    ticks = cut_ticks(min(across) * 0.98, max(across) * 1.02, 6 if frame is WIDE else 4)
    axes = Axes(frame=frame, x_ticks=ticks, low=min(up) * 0.7, high=max(up) * 1.4)
    name = f"speeds-{frame.name}"
    title = "KL divergence by tokens per second"
    words = "; ".join(f"{label}: {x:.4g} tokens/s, {y:.3g} nats" for label, x, y in made)
    parts = [
        f'<svg viewBox="0 0 {frame.width} {frame.height}" role="img" class="chart {frame.name}" '
        f'aria-labelledby="title-{name} desc-{name}">',
        f'<title id="title-{name}">{title}</title>',
        f'<desc id="desc-{name}">{html_text(words)}</desc>',
        *axes.draw("tokens/s generated, predicted", "KL divergence, nats"),
    ]
    path = " ".join(f"{axes.x(x):.1f},{axes.y(y):.1f}" for x, y in planned)
    parts.append(f'<polyline class="planned" points="{path}"/>')
    spots = [(axes.x(x), axes.y(y)) for x, y in every]
    taken: list[Box] = [(x - 7, y - 7, x + 7, y + 7) for x, y in spots]
    for label, x, y in made:
        cx, cy = axes.x(x), axes.y(y)
        parts.append(f'<circle class="mark" cx="{cx:.1f}" cy="{cy:.1f}" r="7"/>')
        left, base = place(label, cx, cy, 7, taken, frame)
        parts.append(text(left, base, label, "label", "start"))
    return "\n".join([*parts, "</svg>"])
