"""The chart of KL divergence by size: planned and preset sizes as predicted, files as measured."""

from __future__ import annotations

from typing import Any

from kanna.escaping import html_text
from kanna.report.plot import (
    NARROW,
    SMALLEST_KL,
    WIDE,
    Axes,
    Box,
    Frame,
    cut_ticks,
    place,
    text,
)


def curve(data: dict[str, Any]) -> str:
    """Returns the chart as SVG, wide and narrow; empty without predictions."""
    predictions = data["optimize"]["curve"]
    if len(predictions["planned"]) < 2:
        return ""
    measured = [
        r
        for r in data["rows"]
        if r["file_bytes"] and r["kl_mean"] is not None and r["role"] != "floor"
    ]
    return "\n".join(_draw(data, predictions, measured, frame) for frame in (WIDE, NARROW))


def describe(data: dict[str, Any]) -> str:
    """Returns what the chart shows, in sentences."""
    predictions = data["optimize"]["curve"]
    first, last = predictions["planned"][0], predictions["planned"][-1]
    sentences = [
        f"File size across, KL divergence up. The planner predicts {first['kl']:.3g} nats at "
        f"{first['bytes'] / 1e6:.1f} MB and {last['kl']:.1e} at {last['bytes'] / 1e6:.1f} MB."
    ]
    sentences += [
        f"Preset {p['name']}: {p['bytes'] / 1e6:.1f} MB, predicted {p['kl']:.3g}."
        for p in predictions["presets"]
    ]
    sentences += [
        f"Measured, {r['name']}: {r['file_bytes'] / 1e6:.1f} MB, {r['kl_mean']:.4g}."
        for r in data["rows"]
        if r["file_bytes"] and r["kl_mean"] is not None
    ]
    return " ".join(sentences)


def _draw(
    data: dict[str, Any], predictions: dict[str, Any], measured: list[dict[str, Any]], frame: Frame
) -> str:
    low_kl = SMALLEST_KL * 10
    planned = [(p["bytes"] / 1e6, p["kl"]) for p in predictions["planned"] if p["kl"] > low_kl]
    presets = [
        (p["name"], p["bytes"] / 1e6, p["kl"]) for p in predictions["presets"] if p["kl"] > low_kl
    ]
    points = [(r["name"], r["file_bytes"] / 1e6, max(r["kl_mean"], low_kl)) for r in measured]
    sizes = [m for m, _ in planned] + [m for _, m, _ in points]
    kls = [k for _, k in planned] + [k for *_, k in presets] + [k for *_, k in points]
    if not planned:
        return ""
    # Predictions go on to where the runtime's own rounding hides all; the useful range ends above.
    own = [max(r["kl_mean"], low_kl) for r in measured if r["role"] != "baseline"]
    least = max(min(kls), min(own, default=low_kl) / 8)
    x_ticks = cut_ticks(min(sizes) * 0.95, max(sizes) * 1.02, 6 if frame is WIDE else 4)
    axes = Axes(frame=frame, x_ticks=x_ticks, low=least * 0.8, high=max(max(kls) * 1.3, least * 10))
    planned = [p for p in planned if axes.holds(*p)]
    x, y = axes.x, axes.y
    name = f"curve-{frame.name}"
    parts = [
        f'<svg viewBox="0 0 {frame.width} {frame.height}" role="img" class="chart {frame.name}" '
        f'aria-labelledby="title-{name} desc-{name}">',
        f'<title id="title-{name}">KL divergence by size of {html_text(data["name"])}</title>',
        f'<desc id="desc-{name}">{html_text(describe(data))}</desc>',
    ]
    parts += axes.draw("file size, MB", "KL divergence, nats (down is closer)")
    path = " ".join(f"{x(m):.1f},{y(k):.1f}" for m, k in planned)
    parts.append(f'<polyline class="planned" points="{path}"/>')
    taken: list[Box] = []
    for label, m, k in presets:
        tip = f"{label}: {m:.1f} MB, predicted {k:.4g} nats"
        parts.append(f"<g><title>{html_text(tip)}</title>{_diamond(x(m), y(k))}</g>")
        taken.append((x(m) - 5, y(k) - 5, x(m) + 5, y(k) + 5))
    best = data["recommended"]["name"]
    for label, m, k in points:
        tip = f"{label}: {m:.1f} MB, measured {k:.5f} nats"
        kind = "mark best-mark" if label == best else "mark"
        parts.append(
            f"<g><title>{html_text(tip)}</title>"
            f'<circle class="{kind}" cx="{x(m):.1f}" cy="{y(k):.1f}" r="7"/></g>'
        )
        taken.append((x(m) - 7, y(k) - 7, x(m) + 7, y(k) + 7))
    for label, m, k in points:
        words = ("★ " if label == best else "") + label
        left, base = place(words, x(m), y(k), 7, taken, frame)
        parts.append(text(left, base, words, "label best" if label == best else "label", "start"))
    parts += [_preset_labels(presets, x, y, taken, frame), _legend(frame), "</svg>"]
    return "\n".join(parts)


def _preset_labels(
    presets: list[tuple[str, float, float]], x: Any, y: Any, taken: list[Box], frame: Frame
) -> str:
    """Labels of the best known presets.

    The others are named in the description of the chart and under the pointer.
    """
    preferred = (
        "Q4_K_M",
        "Q2_K",
        "Q8_0",
        "Q6_K",
        "IQ2_M",
        "Q3_K_M",
        "IQ4_XS",
        "Q5_K_M",
        "IQ1_M",
        "Q4_0",
    )
    chosen = [p for name in preferred for p in presets if p[0] == name][: 8 if frame is WIDE else 4]
    parts: list[str] = []
    for label, m, k in chosen:
        left, base = place(label, x(m), y(k), 6, taken, frame)
        parts.append(text(left, base, label, "tick", "start"))
    return "".join(parts)


def _diamond(cx: float, cy: float) -> str:
    return f'<path class="preset" d="M{cx:.1f} {cy - 5:.1f}l5 5l-5 5l-5 -5z"/>'


def _legend(frame: Frame) -> str:
    top, left = frame.height - 26, frame.left
    step = 230 if frame is WIDE else 0
    rows = [("planned, predicted", "line"), ("presets, predicted", "preset"), ("measured", "mark")]
    parts: list[str] = []
    for number, (words, kind) in enumerate(rows):
        at = left + number * step
        up = top if frame is WIDE else frame.base + 56 + number * 18
        if kind == "line":
            parts.append(f'<line class="planned" x1="{at}" y1="{up}" x2="{at + 22}" y2="{up}"/>')
        elif kind == "preset":
            parts.append(_diamond(at + 11, up))
        else:
            parts.append(f'<circle class="mark" cx="{at + 11}" cy="{up}" r="6"/>')
        parts.append(text(at + 30, up + 4, words, "tick", "start"))
    return "".join(parts)
