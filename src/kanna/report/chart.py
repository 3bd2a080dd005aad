"""The chart to look at first.

Size across, KL divergence up (logarithmic), speed as colour, peak memory as area, and format as
shape.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from html import escape
from typing import Any

from kanna.report import legend

SMALLEST_KL = 1e-6

# Light to dark would vanish on one of the two backgrounds: these stay visible on both.
_STOPS = ((68, 90, 170), (33, 145, 140), (94, 201, 98), (240, 200, 40))


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """A drawing of one size, in user units: letters are 13 high in all of them."""

    name: str
    width: int
    height: int
    left: int = 78
    right: int = 28
    top: int = 24
    bottom: int = 92

    @property
    def end(self) -> int:
        """Where the plot ends to the right."""
        return self.width - self.right

    @property
    def base(self) -> int:
        """Where the plot ends below."""
        return self.height - self.bottom


# Drawn twice, and the style sheet shows one of them: letters of the wide one would be too small on
# a phone.
WIDE = Frame(name="wide", width=860, height=460)
NARROW = Frame(name="narrow", width=400, height=440, left=62, right=14, bottom=108)
_AXIS = 50
"""What ticks and the words of the axis take below the plot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Axes:
    """Megabytes across from 0 to the last of `x_ticks`, KL divergence up from 10^low to 10^high."""

    frame: Frame
    x_ticks: list[float]
    low: int
    high: int

    def x(self, megabytes: float) -> float:
        return self.frame.left + megabytes / self.x_ticks[-1] * (self.frame.end - self.frame.left)

    def y(self, kl: float) -> float:
        share = (self.high - math.log10(kl)) / (self.high - self.low)
        return self.frame.top + share * (self.frame.base - self.frame.top)

    def draw(self, across: str, up: str) -> list[str]:
        """Grid, ticks and the words of both axes."""
        frame, parts = self.frame, list[str]()
        for tick in self.x_ticks:
            parts.append(line("grid", (self.x(tick), frame.top), (self.x(tick), frame.base)))
            parts.append(text(self.x(tick), frame.base + 18, f"{tick:g}", "tick", "middle"))
        for power in range(self.low, self.high + 1):
            at = self.y(10.0**power)
            parts.append(line("grid", (frame.left, at), (frame.end, at)))
            parts.append(text(frame.left - 8, at + 4, power_of_ten(power), "tick", "end"))
        centre, middle = (frame.left + frame.end) / 2, (frame.top + frame.base) / 2
        parts.append(text(centre, frame.base + 38, across, "axis", "middle"))
        parts.append(
            f'<text class="axis" text-anchor="middle" transform="rotate(-90 16 {middle:.0f})" x="16" '
            f'y="{middle:.0f}">{up}</text>'
        )
        return parts


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One artefact: megabytes, nats, tokens per second and megabytes of memory (or None where not measured)."""

    name: str
    megabytes: float
    kl: float
    speed: float | None
    best: bool
    memory: float | None = None
    format: str = "gguf"

    @property
    def said(self) -> str:
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
            format=row.get("format", "gguf"),
        )
        for row in data["rows"]
        if row["role"] != "floor" and row["file_bytes"] and row["kl_mean"] is not None
    ]


def chart(data: dict[str, Any]) -> str:
    """The chart as SVG, wide and narrow; a sentence instead when nothing was evaluated."""
    found = points(data)
    if not found:
        return '<p class="muted">No artefact was evaluated, so there is nothing to draw.</p>'
    return "\n".join(_draw(data, found, frame) for frame in (WIDE, NARROW))


def _draw(data: dict[str, Any], found: list[Point], frame: Frame) -> str:
    formats = list(dict.fromkeys(p.format for p in found))
    memories = [p.memory for p in found if p.memory]
    speeds = [p.speed for p in found if p.speed]
    fastest, slowest = (max(speeds), min(speeds)) if speeds else (1.0, 0.0)
    wide, most = frame is WIDE, max(memories, default=0.0)
    if speeds:
        below = _AXIS + legend.ROW * legend.rows(formats, memory=bool(memories), wide=wide) + 8
        frame = replace(frame, height=frame.height - frame.bottom + below, bottom=below)

    def radius(memory: float | None) -> float:
        return 4 + 11 * math.sqrt(memory / most) if memory else 8.0

    floor = next(
        (r["kl_mean"] for r in data["rows"] if r["role"] == "floor" and r["kl_mean"]), None
    )
    x_ticks = linear_ticks(0.0, max(p.megabytes for p in found) * 1.08, 6 if wide else 4)
    lows = [p.kl for p in found] + ([floor] if floor else [])
    low = math.floor(math.log10(min(lows)) - 0.15)
    high = max(math.ceil(math.log10(max(p.kl for p in found)) + 0.1), low + 1)

    axes = Axes(frame=frame, x_ticks=x_ticks, low=low, high=high)
    x, y = axes.x, axes.y
    parts = [
        f'<svg viewBox="0 0 {frame.width} {frame.height}" role="img" class="chart {frame.name}" '
        f'aria-labelledby="title-{frame.name} desc-{frame.name}">',
        f'<title id="title-{frame.name}">Size, quality and speed of {escape(data["name"])}</title>',
        f'<desc id="desc-{frame.name}">{escape(describe(data))}</desc>',
    ]
    parts += axes.draw(
        "file size, MB (left is smaller)", "mean KL divergence, nats (down is closer)"
    )
    taken: list[Box] = []
    if floor:
        at = y(max(floor, SMALLEST_KL))
        parts.append(line("floor", (frame.left, at), (frame.end, at)))
        said = "floor: what llama.cpp's own rounding costs" if wide else "floor"
        parts.append(text(frame.left + 6, at - 5, said, "tick", "start"))
        taken += [
            (frame.left, at - 1, frame.end, at + 1),
            (frame.left, at - 17, frame.left + 7.0 * len(said), at),
        ]
    radii = {p.name: radius(p.memory) for p in found}
    for p in found:
        r = radii[p.name]
        taken.append((x(p.megabytes) - r, y(p.kl) - r, x(p.megabytes) + r, y(p.kl) + r))
    for p in sorted(found, key=lambda p: -radii[p.name]):
        share = (
            0.5
            if p.speed is None or fastest == slowest
            else (p.speed - slowest) / (fastest - slowest)
        )
        ring = '<circle class="ring" cx="{0:.1f}" cy="{1:.1f}" r="{2:.1f}"/>' if p.best else ""
        parts.append(
            f"<g><title>{escape(p.said)}</title>"
            + _mark(p.format, x(p.megabytes), y(p.kl), radii[p.name], colour(share))
            + ring.format(x(p.megabytes), y(p.kl), radii[p.name] + 5)
            + "</g>"
        )
    for p in found:
        label = ("★ " if p.best else "") + p.name
        left, base = place(
            label, x(p.megabytes), y(p.kl), radii[p.name] + (5 if p.best else 0), taken, frame
        )
        parts.append(text(left, base, label, "label best" if p.best else "label", "start"))
    if speeds:
        parts.append(
            legend.legend(
                left=frame.left,
                top=frame.base + _AXIS,
                wide=wide,
                speeds=(slowest, fastest),
                stops="".join(
                    f'<stop offset="{i * 25}%" stop-color="{colour(i / 4)}"/>' for i in range(5)
                ),
                memories=(min(memories), most) if memories else None,
                radius=radius,
                formats=formats,
                mark=_mark,
                gradient=f"speed-{frame.name}",
            )
        )
    parts.append("</svg>")
    return "\n".join(part for part in parts if part)


_SHAPES = {
    "onnx": ((-0.89, -0.89), (0.89, -0.89), (0.89, 0.89), (-0.89, 0.89)),
    "mlx": ((0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)),
}
"""Corners of equal area as a circle of radius 1: a square, a diamond."""


def _mark(format: str, x: float, y: float, radius: float, fill: str) -> str:
    """A point: a circle for GGUF, a square for ONNX, a diamond for MLX."""
    if format not in _SHAPES:
        return f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{fill}"/>'
    corners = " ".join(f"{x + radius * a:.1f},{y + radius * b:.1f}" for a, b in _SHAPES[format])
    return f'<polygon class="dot" points="{corners}" fill="{fill}"/>'


def describe(data: dict[str, Any]) -> str:
    """What the chart shows, in words."""
    said = [
        f"{p.name}: {p.megabytes:.1f} MB, KL divergence {p.kl:.5f}"
        + (f", {p.speed:.0f} tokens per second" if p.speed else "")
        + (f", {p.memory:.0f} MB of peak memory" if p.memory else "")
        for p in points(data)
    ]
    best = data["recommended"]["name"]
    return (
        "File size across, KL divergence up. "
        + "; ".join(said)
        + "."
        + (f" Recommended: {best}." if best else "")
    )


def colour(share: float) -> str:
    """A colour between slow (0, blue) and fast (1, yellow)."""
    at = min(max(share, 0.0), 1.0) * (len(_STOPS) - 1)
    index = min(int(at), len(_STOPS) - 2)
    mixed = (
        a + (b - a) * (at - index) for a, b in zip(_STOPS[index], _STOPS[index + 1], strict=True)
    )
    return "#" + "".join(f"{round(v):02x}" for v in mixed)


def power_of_ten(power: int) -> str:
    """A power of ten as people write it."""
    if power >= -3:
        return f"{10.0**power:g}"
    return "10⁻" + str(-power).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))


def linear_ticks(start: float, stop: float, count: int = 6) -> list[float]:
    """About `count` round numbers from start to at least stop."""
    raw = max(stop - start, 1e-9) / count
    size = 10 ** math.floor(math.log10(raw))
    step = next(m * size for m in (1, 2, 2.5, 5, 10) if m * size >= raw)
    return [start + i * step for i in range(math.ceil((stop - start) / step - 1e-9) + 1)]


Box = tuple[float, float, float, float]
"""Left, top, right and bottom of what is drawn already."""


def place(
    label: str, cx: float, cy: float, radius: float, taken: list[Box], frame: Frame
) -> tuple[float, float]:
    """Left edge and baseline of a label near (cx, cy) that covers nothing yet.

    Marks the place as taken.
    """
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
        outside = (
            max(0, frame.left - left)
            + max(0, right - frame.width + 4)
            + max(0, frame.top - top)
            + max(0, bottom - frame.base)
        )
        covered = sum(
            max(0.0, min(right, r) - max(left, a)) * max(0.0, min(bottom, b) - max(top, t))
            for a, t, r, b in taken
        )
        return covered + outside * height

    spot = min(spots, key=overlap)
    taken.append((spot[0], spot[1] - height + 3, spot[0] + width, spot[1] + 3))
    return spot


def line(kind: str, start: tuple[float, float], end: tuple[float, float]) -> str:
    return f'<line class="{kind}" x1="{start[0]:.1f}" y1="{start[1]:.1f}" x2="{end[0]:.1f}" y2="{end[1]:.1f}"/>'


def text(x: float, y: float, said: str, kind: str, anchor: str) -> str:
    return (
        f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(said)}</text>'
    )
