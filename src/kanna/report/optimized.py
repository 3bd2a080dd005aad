"""The sections of an optimization.

The curve, the plan as a picture, kinds of text, memory, the trials.
"""

from __future__ import annotations

from html import escape
from typing import Any

from kanna._util.units import format_size
from kanna.report.curve import curve
from kanna.report.picture import pictures


def sections(data: dict[str, Any]) -> str:
    """Markup for what `optimize` adds to a comparison; empty for a plain comparison."""
    found = data.get("optimize")
    if not found:
        return ""
    parts: list[str] = []
    if drawn := curve(data):
        parts.append(
            "<h2>Divergence by size</h2>"
            + drawn
            + '<p class="muted">Predictions are of this model on its calibration '
            "text, of the values that gptq would choose (presets too), without what the runtime's own rounding adds; "
            "measurements are of the files, in the runtime.</p>"
        )
    if table := _domains(found["domains"]):
        parts.append("<h2>Kinds of text</h2>" + table)
    if table := _memory(found.get("memory")):
        parts.append("<h2>Memory</h2>" + table)
    if drawn := pictures(found["pictures"]):
        parts.append("<h2>The plan</h2>" + drawn)
    if trials := _swaps(found.get("swaps") or []):
        parts.append("<h2>Swaps tried</h2>" + trials)
    if tuned := found.get("tuned"):
        parts.append("<h2>Scales and norms tuned</h2>" + _tuned(tuned))
    return "".join(parts)


def _domains(found: dict[str, Any]) -> str:
    if not found:
        return ""
    kinds = list(found["windows"])
    head = '<th scope="col" class="text">artefact</th>' + "".join(
        f'<th scope="col">{escape(k)}</th>' for k in kinds
    )
    body = "".join(
        f'<tr><th scope="row" class="text">{escape(r["name"])}</th>'
        + "".join(f"<td>{r['kl'][k]:.5f}</td>" for k in kinds)
        + "</tr>"
        for r in found["rows"]
    )
    counts = ", ".join(f"{n} of {escape(k)}" for k, n in found["windows"].items())
    origin = (
        "windows held out of the statistics, which chose shrinkage and scaled predictions"
        if found["fitted"]
        else "calibration text that nothing was fitted to"
    )
    said = f"Mean KL divergence in nats, in the runtime, on {origin}; windows of {found['window']} tokens: {counts}."
    return (
        f'<p class="caption">{said}</p><div class="scroll" tabindex="0" role="region" aria-label="By kind of text">'
        f'<table aria-label="Mean KL divergence by kind of text"><thead><tr>{head}</tr></thead><tbody>{body}</tbody>'
        "</table></div>"
    )


def _memory(found: dict[str, Any] | None) -> str:
    if not found:
        return ""
    head = "".join(
        f'<th scope="col"{" class=text" if i < 1 else ""}>{c}</th>'
        for i, c in enumerate(
            ("cache", "cache takes", "beside weights", "KL of weights", "KL of the cache", "chosen")
        )
    )
    body = "".join(
        f'<tr><th scope="row" class="text">{r["cache"]}</th><td>{format_size(r["overhead"]["kv"])}</td>'
        f"<td>{format_size(r['overhead_bytes'])}</td><td>{_or_dash(r['least'])}</td><td>{_or_dash(r['shift'])}</td>"
        f"<td>{'✓' if r['cache'] == found['cache'] else '–'}</td></tr>"
        for r in found["rooms"]
    )
    measured = (
        "not measured"
        if found["measured"] is None
        else f"{format_size(found['measured'])} measured"
    )
    kl = (
        ""
        if found["kl_with_cache"] is None
        else f" Divergence with this cache: {found['kl_with_cache']:.5f} nats."
    )
    return (
        f'<p class="caption">{format_size(found["limit"])} at {found["context"]} tokens: '
        f"{format_size(found['predicted'])} predicted, {measured}, of a llama.cpp that maps no file, its cache full; "
        f"what the interpreter held before is not in it. Cache in {found['cache']}: {escape(found['why'])}.{kl}</p>"
        '<div class="scroll" tabindex="0" role="region" aria-label="Memory by cache"><table aria-label="Memory by '
        f'cache"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
        f"<p><code>{escape(found['command'])}</code></p>"
    )


def _swaps(found: list[dict[str, Any]]) -> str:
    if not found:
        return ""
    head = "".join(
        f'<th scope="col"{" class=text" if i < 1 else ""}>{c}</th>'
        for i, c in enumerate(
            ("costs of", "taken as", "tensors changed", "KL before", "KL after", "± 95 %", "kept")
        )
    )
    body = "".join(
        f'<tr><th scope="row" class="text">{escape(s["group"])}</th><td>× {s["factor"]:.2f}</td><td>{s["changed"]}</td>'
        f"<td>{s['before']:.5f}</td><td>{s['after']:.5f}</td><td>{_or_dash(s['half'])}</td>"
        f"<td>{'✓' if s['kept'] else '–'}</td></tr>"
        for s in found
    )
    return (
        '<p class="caption">Plans of the same size, each with some costs taken as larger or smaller, in the runtime; '
        "kept when the divergence falls by more than half that interval, about a standard error. A trial that was "
        "clearly worse was left early.</p>"
        '<div class="scroll" tabindex="0" role="region" aria-label="Swaps tried"><table aria-label="Swaps tried">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _tuned(found: dict[str, Any]) -> str:
    end = "so it is offered" if found["kept"] else "so it was not kept"
    half = f" ± {found['half']:.5f}" if found["half"] is not None else ""
    rounds = ", ".join(f"{v:.5f}" for v in found["watched"])
    return (
        f'<p class="caption">With every code held, {found["parameters"]:,} scales and norms learned from the logits of '
        f"the original on the calibration text, for {found['seconds']:.0f} s. In the runtime, on text it did not learn "
        f"from, the divergence went from {found['before']:.5f} to {found['after']:.5f} nats"
        f" (difference {found['after'] - found['before']:+.5f}{half}), {end}. Round by round, in torch: {rounds}.</p>"
    )


def _or_dash(value: float | None) -> str:
    return "–" if value is None else f"{value:.5f}"
