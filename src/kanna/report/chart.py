"""The chart to look at first: size across, KL divergence up (logarithmic), speed as colour and area."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import Any

WIDTH, HEIGHT = 860, 460
LEFT, RIGHT, TOP, BOTTOM = 78, 28, 24, 92
SMALLEST_KL = 1e-6

# Light to dark would vanish on one of the two backgrounds: these stay visible on both.
_STOPS = ((68, 90, 170), (33, 145, 140), (94, 201, 98), (240, 200, 40))


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One artefact: megabytes, nats, tokens per second (or None where not measured)."""

    name: str
    megabytes: float
    kl: float
    speed: float | None
    best: bool


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
        )
        for row in data["rows"]
        if row["role"] != "floor" and row["file_bytes"] and row["kl_mean"] is not None
    ]


def chart(data: dict[str, Any]) -> str:
    """The chart as an SVG element; a sentence instead when nothing was evaluated."""
    found = points(data)
    if not found:
        return '<p class="muted">No artefact was evaluated, so there is nothing to draw.</p>'
    floor = next((r["kl_mean"] for r in data["rows"] if r["role"] == "floor" and r["kl_mean"]), None)
    x_ticks = _linear_ticks(0.0, max(p.megabytes for p in found) * 1.08)
    lows = [p.kl for p in found] + ([floor] if floor else [])
    low = math.floor(math.log10(min(lows)) - 0.15)
    high = max(math.ceil(math.log10(max(p.kl for p in found)) + 0.1), low + 1)
    speeds = [p.speed for p in found if p.speed]
    fastest, slowest = (max(speeds), min(speeds)) if speeds else (1.0, 0.0)

    def x(megabytes: float) -> float:
        return LEFT + megabytes / x_ticks[-1] * (WIDTH - LEFT - RIGHT)

    def y(kl: float) -> float:
        return TOP + (high - math.log10(kl)) / (high - low) * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="chart-title chart-desc" class="chart">',
        f'<title id="chart-title">Size, quality and speed of {escape(data["name"])}</title>',
        f'<desc id="chart-desc">{escape(describe(data))}</desc>',
    ]
    for tick in x_ticks:
        parts.append(f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        parts.append(_text(x(tick), HEIGHT - BOTTOM + 18, f"{tick:g}", "tick", "middle"))
    for power in range(low, high + 1):
        at = y(10.0**power)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(_text(LEFT - 8, at + 4, _power(power), "tick", "end"))
    centre, middle = (LEFT + WIDTH - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2
    parts.append(_text(centre, HEIGHT - BOTTOM + 38, "file size, MB (left is smaller)", "axis", "middle"))
    parts.append(
        f'<text class="axis" text-anchor="middle" transform="rotate(-90 16 {middle:.0f})" x="16" y="{middle:.0f}">'
        "mean KL divergence, nats (down is closer)</text>"
    )
    if floor:
        at = y(max(floor, SMALLEST_KL))
        parts.append(f'<line class="floor" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(_text(LEFT + 6, at - 5, "floor: the runtime's own rounding", "tick", "start"))
    taken: list[tuple[float, float, float, float]] = []
    radii = {p.name: 6 + 9 * math.sqrt((p.speed or 0) / fastest) if fastest else 8.0 for p in found}
    for p in found:
        r = radii[p.name]
        taken.append((x(p.megabytes) - r, y(p.kl) - r, x(p.megabytes) + r, y(p.kl) + r))
    for p in sorted(found, key=lambda p: -radii[p.name]):
        share = 0.5 if p.speed is None or fastest == slowest else (p.speed - slowest) / (fastest - slowest)
        tip = f"{p.name}: {p.megabytes:.1f} MB, KL {p.kl:.5f}" + (f", {p.speed:.1f} tokens/s" if p.speed else "")
        ring = '<circle class="ring" cx="{0:.1f}" cy="{1:.1f}" r="{2:.1f}"/>' if p.best else ""
        parts.append(
            f'<g><title>{escape(tip)}</title><circle class="dot" cx="{x(p.megabytes):.1f}" cy="{y(p.kl):.1f}" '
            f'r="{radii[p.name]:.1f}" fill="{colour(share)}"/>'
            + ring.format(x(p.megabytes), y(p.kl), radii[p.name] + 5)
            + "</g>"
        )
    for p in found:
        label = ("★ " if p.best else "") + p.name
        left, base = _place(label, x(p.megabytes), y(p.kl), radii[p.name] + (5 if p.best else 0), taken)
        parts.append(_text(left, base, label, "label best" if p.best else "label", "start"))
    parts.append(_legend(slowest, fastest) if speeds else "")
    parts.append("</svg>")
    return "\n".join(part for part in parts if part)


def describe(data: dict[str, Any]) -> str:
    """What the chart shows, in words."""
    said = [
        f"{p.name}: {p.megabytes:.1f} MB, KL divergence {p.kl:.5f}"
        + (f", {p.speed:.0f} tokens per second" if p.speed else "")
        for p in points(data)
    ]
    best = data["recommended"]["name"]
    return "File size across, KL divergence up. " + "; ".join(said) + "." + (f" Recommended: {best}." if best else "")


def colour(share: float) -> str:
    """A colour between slow (0, blue) and fast (1, yellow)."""
    at = min(max(share, 0.0), 1.0) * (len(_STOPS) - 1)
    index = min(int(at), len(_STOPS) - 2)
    mixed = (a + (b - a) * (at - index) for a, b in zip(_STOPS[index], _STOPS[index + 1], strict=True))
    return "#" + "".join(f"{round(v):02x}" for v in mixed)


def _power(power: int) -> str:
    """A power of ten as people write it."""
    if power >= -3:
        return f"{10.0**power:g}"
    return "10⁻" + str(-power).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _linear_ticks(start: float, stop: float) -> list[float]:
    """About six round numbers from start to at least stop."""
    raw = max(stop - start, 1e-9) / 6
    size = 10 ** math.floor(math.log10(raw))
    step = next(m * size for m in (1, 2, 2.5, 5, 10) if m * size >= raw)
    return [start + i * step for i in range(math.ceil((stop - start) / step - 1e-9) + 1)]


def _place(
    label: str, cx: float, cy: float, radius: float, taken: list[tuple[float, float, float, float]]
) -> tuple[float, float]:
    """Left edge and baseline of a label near (cx, cy) that covers nothing yet; marks the place as taken."""
    width, height, gap = 8.8 * len(label), 15.0, radius + 5
    spots = [
        (cx + gap, cy + 5),
        (cx - gap - width, cy + 5),
        (cx - width / 2, cy - gap),
        (cx - width / 2, cy + gap + 11),
        (cx + gap * 0.7, cy - gap * 0.8),
        (cx + gap * 0.7, cy + gap * 0.8 + 11),
        (cx - gap * 0.7 - width, cy - gap * 0.8),
        (cx - gap * 0.7 - width, cy + gap * 0.8 + 11),
    ]

    def overlap(spot: tuple[float, float]) -> float:
        left, top, right, bottom = spot[0], spot[1] - height + 3, spot[0] + width, spot[1] + 3
        outside = max(0, LEFT - left) + max(0, right - WIDTH + 4) + max(0, TOP - top) + max(0, bottom - HEIGHT + BOTTOM)
        covered = sum(
            max(0.0, min(right, r) - max(left, a)) * max(0.0, min(bottom, b) - max(top, t)) for a, t, r, b in taken
        )
        return covered + outside * height

    spot = min(spots, key=overlap)
    taken.append((spot[0], spot[1] - height + 3, spot[0] + width, spot[1] + 3))
    return spot


def _legend(slowest: float, fastest: float) -> str:
    top, left, width = HEIGHT - 24, LEFT, 180
    said = f"{slowest:.0f} to {fastest:.0f} tokens/s (yellow and large is faster)"
    stops = "".join(f'<stop offset="{i * 25}%" stop-color="{colour(i / 4)}"/>' for i in range(5))
    return (
        f'<defs><linearGradient id="speed">{stops}</linearGradient></defs>'
        f'<rect x="{left}" y="{top}" width="{width}" height="10" rx="5" fill="url(#speed)"/>'
        + _text(left + width + 10, top + 10, said, "tick", "start")
    )


def _text(x: float, y: float, text: str, kind: str, anchor: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
