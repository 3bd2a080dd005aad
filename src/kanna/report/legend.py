"""What the colours, areas and shapes of the chart mean: a line each, below the axis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kanna import formats as known_formats
from kanna._util.units import format_size
from kanna.report.plot import colour, text

ROW = 26
"""Height of a line."""


def rows(formats: Sequence[str], *, memory: bool, wide: bool) -> int:
    """Returns how many lines the legend takes.

    Speed and memory share one in the wide chart; shapes get one where there are several formats.
    """
    return 1 + (not wide and memory) + (len(formats) > 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """What the chart encodes.

    Attributes:
        speeds: Slowest and fastest in tokens/s.
        memories: Least and most peak memory in MB, or None where it was not measured.
        formats: Names of the formats.
    """

    speeds: tuple[float, float]
    memories: tuple[float, float] | None
    formats: Sequence[str]


def legend(
    keys: Keys,
    *,
    left: float,
    top: float,
    wide: bool,
    radius: Callable[[float], float],
    mark: Callable[[str, float, float, float, str], str],
    gradient: str,
) -> str:
    """Returns the legend as SVG.

    Args:
        keys: What it explains.
        left: Where it begins across.
        top: Where it begins, downwards.
        wide: Whether speed and memory share a line.
        radius: Radius of the mark of so many MB.
        mark: Draws the mark of a format: format, centre, radius and colour.
        gradient: Id of the gradient of colours.
    """
    speeds, memories, formats = keys.speeds, keys.memories, keys.formats
    stops = "".join(f'<stop offset="{i * 25}%" stop-color="{colour(i / 4)}"/>' for i in range(5))
    middle, at = top + ROW / 2, left + (150.0 if wide else 90.0)
    parts = [
        f'<defs><linearGradient id="{gradient}">{stops}</linearGradient></defs>'
        f'<rect x="{left}" y="{middle - 5:.1f}" width="{at - left}" height="10" rx="5" '
        f'fill="url(#{gradient})"/>',
        _words(at + 8, middle, f"{speeds[0]:.0f} to {speeds[1]:.0f} tokens/s (yellow is faster)"),
    ]
    if memories:
        if wide:
            at += 300
        else:
            at, middle = left, middle + ROW
        for size in dict.fromkeys(memories):
            r = radius(size)
            parts.append(
                f'<circle class="sample" cx="{at + r:.1f}" cy="{middle:.1f}" r="{r:.1f}"/>'
            )
            at += 2 * r + 5
        sizes = dict.fromkeys(format_size(m * 1e6) for m in memories)
        parts.append(_words(at + 3, middle, f"peak memory {' to '.join(sizes)}"))
    if len(formats) > 1:
        at, middle = left, middle + ROW
        for format in formats:
            parts.append(mark(format, at + 7, middle, 6.5, "none"))
            parts.append(_words(at + 20, middle, known_formats.get(format).title))
            at += 82
    return "".join(parts)


def _words(x: float, middle: float, words: str) -> str:
    return text(x, middle + 4, words, "tick", "start")
