"""What charts are drawn with: frames, axes, labels that avoid each other, lines and text as SVG."""

from __future__ import annotations

import math
from dataclasses import dataclass

from kanna.escaping import html_text

SMALLEST_KL = 1e-6
"""KL divergences below this are drawn here, since the axis is logarithmic."""

# Visible on the light and on the dark background alike.
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


# Charts are drawn twice and the style sheet shows one: letters of the wide one would be too small
# on a phone.
WIDE = Frame(name="wide", width=860, height=460)
NARROW = Frame(name="narrow", width=400, height=440, left=62, right=14, bottom=108)


@dataclass(frozen=True, slots=True, kw_only=True)
class Axes:
    """Megabytes across, from the first to the last of `x_ticks`; KL divergence up, logarithmic.

    Attributes:
        low: KL divergence at the bottom.
        high: At the top.
    """

    frame: Frame
    x_ticks: list[float]
    low: float
    high: float

    def x(self, megabytes: float) -> float:
        """Returns where a size is across; what is larger than the axis, at its end."""
        first, last = self.x_ticks[0], self.x_ticks[-1]
        share = min(1.0, max(0.0, (megabytes - first) / (last - first)))
        return self.frame.left + share * (self.frame.end - self.frame.left)

    def y(self, kl: float) -> float:
        """Returns where a KL divergence is; what is smaller than the axis, at its foot."""
        inside = min(self.high, max(self.low, kl))
        share = math.log(self.high / inside) / math.log(self.high / self.low)
        return self.frame.top + share * (self.frame.base - self.frame.top)

    def holds(self, megabytes: float, kl: float) -> bool:
        """Returns whether a point is inside of what the axes show."""
        return self.x_ticks[0] <= megabytes <= self.x_ticks[-1] and self.low <= kl <= self.high

    def draw(self, across: str, up: str) -> list[str]:
        """Returns the grid, the ticks and the titles of both axes, as SVG."""
        frame, parts = self.frame, list[str]()
        for tick in self.x_ticks:
            parts.append(line("grid", (self.x(tick), frame.top), (self.x(tick), frame.base)))
            parts.append(text(self.x(tick), frame.base + 18, f"{tick:g}", "tick", "middle"))
        for value in log_ticks(self.low, self.high):
            at = self.y(value)
            parts.append(line("grid", (frame.left, at), (frame.end, at)))
            parts.append(text(frame.left - 8, at + 4, short(value), "tick", "end"))
        centre, middle = (frame.left + frame.end) / 2, (frame.top + frame.base) / 2
        parts.append(text(centre, frame.base + 38, across, "axis", "middle"))
        parts.append(
            f'<text class="axis" text-anchor="middle" transform="rotate(-90 16 {middle:.0f})" '
            f'x="16" y="{middle:.0f}">{up}</text>'
        )
        return parts


def colour(share: float) -> str:
    """Returns a colour between blue (0) and yellow (1), as `#rrggbb`."""
    at = min(max(share, 0.0), 1.0) * (len(_STOPS) - 1)
    index = min(int(at), len(_STOPS) - 2)
    mixed = (
        a + (b - a) * (at - index) for a, b in zip(_STOPS[index], _STOPS[index + 1], strict=True)
    )
    return "#" + "".join(f"{round(v):02x}" for v in mixed)


def short(value: float) -> str:
    """Returns a small number as people write it: `0.01`, `2·10⁻⁵`."""
    if value >= 0.0009:
        return f"{value:.2g}"
    digit, _, power = f"{value:.0e}".partition("e-")
    raised = str(int(power)).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return ("" if digit == "1" else f"{digit}·") + "10⁻" + raised


def log_ticks(low: float, high: float) -> list[float]:
    """Returns the round numbers between two: powers of ten, with 2 and 5 between few of them."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = (1,) if last - first > 4 else (1, 3) if last - first > 3 else (1, 2, 5)
    values = [step * 10.0**power for power in range(first, last + 1) for step in steps]
    return [v for v in values if low * 0.999 <= v <= high * 1.001]


def cut_ticks(start: float, stop: float, count: int = 6) -> list[float]:
    """Returns round numbers from `start` or a little before it to at least `stop`."""
    step = linear_ticks(0.0, max(stop - start, stop / 50), count)
    size = step[1] - step[0]
    first = math.floor(start / size + 1e-9) * size
    return [first + i * size for i in range(math.ceil((stop - first) / size - 1e-9) + 1)]


def linear_ticks(start: float, stop: float, count: int = 6) -> list[float]:
    """Returns about `count` round numbers from `start` to at least `stop`."""
    raw = max(stop - start, 1e-9) / count
    size = 10 ** math.floor(math.log10(raw))
    step = next(m * size for m in (1, 2, 2.5, 5, 10) if m * size >= raw)
    return [start + i * step for i in range(math.ceil((stop - start) / step - 1e-9) + 1)]


Box = tuple[float, float, float, float]
"""Left, top, right and bottom of something drawn."""


def place(
    label: str, cx: float, cy: float, radius: float, taken: list[Box], frame: Frame
) -> tuple[float, float]:
    """Returns left edge and baseline of a label near a mark, where it covers the least.

    Args:
        label: The text.
        cx: Centre of the mark.
        cy: Centre of the mark.
        radius: Half the size of the mark.
        taken: Boxes that are drawn already; that of the label is added.
        frame: The drawing.
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
    """Returns a line as SVG; `kind` is its class in the style sheet."""
    (x1, y1), (x2, y2) = start, end
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def text(x: float, y: float, words: str, kind: str, anchor: str) -> str:
    """Returns text as SVG; (x, y) is its baseline, at the end that `anchor` names."""
    where = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text class="{kind}" {where}>{html_text(words)}</text>'
