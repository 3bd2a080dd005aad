"""What the colours, areas and shapes of the chart mean: a line each, below the axis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

from kanna._util.units import format_size

ROW = 26
"""Height of a line."""
_NAMES = {"gguf": "GGUF", "onnx": "ONNX", "mlx": "MLX"}


def rows(formats: Sequence[str], *, memory: bool, wide: bool) -> int:
    """Lines it takes: speed and memory share one where there is room, and shapes are told when there are several."""
    return 1 + (not wide and memory) + (len(formats) > 1)


def legend(
    *,
    left: float,
    top: float,
    wide: bool,
    speeds: tuple[float, float],
    stops: str,
    memories: tuple[float, float] | None,
    radius: Callable[[float], float],
    formats: Sequence[str],
    mark: Callable[[str, float, float, float, str], str],
    gradient: str,
) -> str:
    """SVG from `top` downwards.

    MB; mark: draws one; gradient: id of the colours, whose stops are `stops`.

    Args:
        speeds: Slowest and fastest in tokens/s.
        memories: Least and most in MB.
        radius: Of a mark in.
    """
    middle, at = top + ROW / 2, left + (150.0 if wide else 90.0)
    parts = [
        f'<defs><linearGradient id="{gradient}">{stops}</linearGradient></defs>'
        f'<rect x="{left}" y="{middle - 5:.1f}" width="{at - left}" height="10" rx="5" fill="url(#{gradient})"/>',
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
            parts.append(_words(at + 20, middle, _NAMES.get(format, format)))
            at += 82
    return "".join(parts)


def _words(x: float, middle: float, said: str) -> str:
    return f'<text class="tick" x="{x:.1f}" y="{middle + 4:.1f}" text-anchor="start">{escape(said)}</text>'
