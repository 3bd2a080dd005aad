"""The sections that an optimization adds to the report."""

from __future__ import annotations

from statistics import median
from typing import Any

from kanna._util.bars import duration
from kanna._util.units import format_size
from kanna.escaping import html_text
from kanna.report.behaviour import behaviour
from kanna.report.curve import curve
from kanna.report.fine_tuned import fine_tuned
from kanna.report.picture import pictures
from kanna.report.rounded_inputs import rounded_inputs
from kanna.report.speeds import speeds
from kanna.report.tables import small_table


def sections(data: dict[str, Any]) -> str:
    """Returns the markup of what `optimize` adds to a comparison; empty for a plain comparison."""
    optimization = data.get("optimize")
    if not optimization:
        return ""
    parts: list[str] = []
    if markup := fine_tuned(data):
        parts.append("<h2>What is kept of the fine-tune</h2>" + markup)
    if markup := curve(data):
        parts.append(
            "<h2>Divergence by size</h2>"
            + markup
            + '<p class="muted">Predictions are of this model on its calibration text, of the '
            "values that gptq would choose (presets too), without what the runtime's own rounding "
            "adds; measurements are of the files, in the runtime.</p>"
        )
    if markup := speeds(optimization.get("speed")):
        parts.append("<h2>Speed</h2>" + markup)
    if markup := _domains(optimization["domains"]):
        parts.append("<h2>Kinds of text</h2>" + markup)
    if markup := behaviour(data["rows"], optimization.get("guard")):
        parts.append("<h2>Behaviour</h2>" + markup)
    if markup := _memory(optimization.get("memory")):
        parts.append("<h2>Memory</h2>" + markup)
    if markup := pictures(optimization["pictures"]):
        parts.append("<h2>The plan</h2>" + markup)
    if markup := _coverage(optimization.get("coverage") or []):
        parts.append("<h2>Experts</h2>" + markup)
    if markup := _swaps(optimization.get("swaps") or []):
        parts.append("<h2>Swaps tried</h2>" + markup)
    if levels := optimization.get("accuracy"):
        parts.append("<h2>Inputs of products</h2>" + rounded_inputs(levels))
    if corrected := optimization.get("corrected"):
        parts.append("<h2>Values chosen again</h2>" + _corrected(corrected))
    if tuning := optimization.get("tuned"):
        parts.append("<h2>Scales and norms tuned</h2>" + _tuned(tuning))
    if markup := _times(optimization.get("times") or []):
        parts.append("<h2>Time</h2>" + _device(optimization.get("device")) + markup)
    return "".join(parts)


def _device(name: str | None) -> str:
    if name in (None, "cpu"):
        return ""
    return (
        f'<p class="muted">Calibrated on {html_text(name)}: the numbers of another device differ '
        "in the last place.</p>"
    )


def _domains(domains: dict[str, Any]) -> str:
    if not domains:
        return ""
    kinds = list(domains["windows"])
    head = '<th scope="col" class="text">file</th>' + "".join(
        f'<th scope="col">{html_text(k)}</th>' for k in kinds
    )
    body = "".join(
        f'<tr><th scope="row" class="text">{html_text(r["name"])}</th>'
        + "".join(f"<td>{r['kl'][k]:.5f}</td>" for k in kinds)
        + "</tr>"
        for r in domains["rows"]
    )
    counts = ", ".join(f"{n} of {html_text(k)}" for k, n in domains["windows"].items())
    origin = (
        "windows held out of the statistics, which chose shrinkage and scaled predictions"
        if domains["fitted"]
        else "calibration text that nothing was fitted to"
    )
    caption = (
        f"Mean KL divergence in nats, in the runtime, on {origin}; "
        f"windows of {domains['window']} tokens: {counts}."
    )
    return _table(
        caption, head, body, region="By kind of text", label="Mean KL divergence by kind of text"
    )


def _memory(memory: dict[str, Any] | None) -> str:
    if not memory:
        return ""
    head = "".join(
        f'<th scope="col"{" class=text" if i < 1 else ""}>{c}</th>'
        for i, c in enumerate(
            (
                "cache",
                "cache takes",
                "without weights",
                "KL of weights",
                "KL of the cache",
                "chosen",
            )
        )
    )
    body = "".join(
        f'<tr><th scope="row" class="text">{html_text(r["cache"])}</th>'
        f"<td>{format_size(r['overhead']['kv'])}</td><td>{format_size(r['overhead_bytes'])}</td>"
        f"<td>{_or_dash(r['least'])}</td><td>{_or_dash(r['shift'])}</td>"
        f"<td>{'✓' if r['cache'] == memory['cache'] else '–'}</td></tr>"
        for r in memory["rooms"]
    )
    measured = (
        "not measured"
        if memory["measured"] is None
        else f"{format_size(memory['measured'])} measured"
    )
    kl = (
        ""
        if memory["kl_with_cache"] is None
        else f" Divergence with this cache: {memory['kl_with_cache']:.5f} nats."
    )
    caption = (
        f"{format_size(memory['limit'])} at {memory['context']} tokens: "
        f"{format_size(memory['predicted'])} predicted, {measured}, of a llama.cpp that maps no "
        "file, its cache full; what the interpreter held before is not in it. "
        f"Cache in {html_text(memory['cache'])}: {html_text(memory['why'])}.{kl}"
    )
    table = _table(caption, head, body, region="Memory by cache", label="Memory by cache")
    return f"{table}<p><code>{html_text(memory['command'])}</code></p>"


def _coverage(layers: list[dict[str, Any]]) -> str:
    if not layers:
        return ""
    columns = ("layer", "experts", "fewest tokens", "median", "most tokens", "too few")
    head = "".join(f'<th scope="col">{c}</th>' for c in columns)
    body = "".join(
        f'<tr><th scope="row">{layer["layer"]}</th><td>{len(layer["tokens"])}</td>'
        f"<td>{min(layer['tokens']):,}</td><td>{median(layer['tokens']):,.0f}</td>"
        f"<td>{max(layer['tokens']):,}</td><td>{len(layer['few']) or '–'}</td></tr>"
        for layer in layers
    )
    caption = (
        "Tokens of the calibration text that the model routed to its experts. Where an expert saw "
        "too few, its statistics are mostly those of all experts of its layer."
    )
    return _table(caption, head, body, region="Experts by layer", label="Tokens of experts")


def _swaps(trials: list[dict[str, Any]]) -> str:
    if not trials:
        return ""
    head = "".join(
        f'<th scope="col"{" class=text" if i < 1 else ""}>{c}</th>'
        for i, c in enumerate(
            (
                "costs of",
                "taken as",
                "tensors changed",
                "KL before",
                "KL after",
                "± 95 %",
                "text that loses",
                "kept",
            )
        )
    )
    body = "".join(
        f'<tr><th scope="row" class="text">{html_text(s["group"])}</th>'
        f"<td>× {s['factor']:.2f}</td><td>{s['changed']}</td><td>{s['before']:.5f}</td>"
        f"<td>{s['after']:.5f}</td><td>{_or_dash(s['half'])}</td>"
        f'<td class="text">{html_text(", ".join(s.get("worse", [])) or "–")}</td>'
        f"<td>{'✓' if s['kept'] else '–'}</td></tr>"
        for s in trials
    )
    caption = (
        "Plans of the same size, each with some costs taken as larger or smaller, in the runtime; "
        "kept when the divergence falls by more than about a standard error and no kind of text "
        "loses as much. A trial that was clearly worse was left early."
    )
    return _table(caption, head, body, region="Swaps tried", label="Swaps tried")


def _corrected(corrected: dict[str, Any]) -> str:
    head = '<th scope="col" class="text">text</th>' + "".join(
        f'<th scope="col">{name}</th>' for name in ("windows", "before", "after", "±", "not worse")
    )
    body = "".join(
        f'<tr><th scope="row" class="text">{html_text(k["kind"])}</th><td>{k["windows"]}</td>'
        f"<td>{k['before']:.5f}</td><td>{k['after']:.5f}</td><td>{_or_dash(k['half'])}</td>"
        f"<td>{'–' if k['kind'] in corrected['worse'] else '✓'}</td></tr>"
        for k in corrected["kinds"]
    )
    end = "so that they were kept" if corrected["kept"] else "so that they were not kept"
    caption = (
        f"Values of {corrected['tensors']} matrices were chosen again, for the inputs that "
        f"quantized layers before give, and codes of {corrected['learned']} layers learned by what "
        "the layer gives. In the runtime, on calibration text that nothing was fitted to, "
        f"the divergence went from {corrected['before']:.5f} to {corrected['after']:.5f} nats"
        f"{_runner_up(corrected)}, {end}: that takes a lower mean and no kind of text that loses "
        "more than about a standard error."
    )
    return _table(caption, head, body, region="Values chosen again", label="By kind of text")


def _runner_up(corrected: dict[str, Any]) -> str:
    if corrected["runner_up"] is None:
        return ""
    which = "without" if corrected["learned"] else "with"
    return f" ({corrected['runner_up']:.5f} {which} learned codes)"


def _tuned(tuning: dict[str, Any]) -> str:
    end = "so it is offered" if tuning["kept"] else "so it was not kept"
    if recovery := tuning.get("recovery"):
        end = f"and by the losses below, it was {'kept' if tuning['kept'] else 'not kept'}"
    half = f" ± {tuning['half']:.5f}" if tuning["half"] is not None else ""
    rounds = ", ".join(f"{v:.5f}" for v in tuning["watched"])
    return (
        f'<p class="caption">With the quantized values fixed, {tuning["parameters"]:,} scales and '
        f"norms learned from the logits of the original on the calibration text, for "
        f"{tuning['seconds']:.0f} s. In the runtime, on text they did not learn from, the "
        f"divergence went from {tuning['before']:.5f} to {tuning['after']:.5f} nats"
        f" (difference {tuning['after'] - tuning['before']:+.5f}{half}), {end}. "
        f"Round by round, in torch: {rounds}.</p>"
    ) + (_recovery(recovery) if recovery else "")


def _recovery(recovery: dict[str, Any]) -> str:
    """Losses on text of the domain: of the original, without tuning and with it."""
    rows = [
        (
            f"{words}, {losses['windows']} windows, {losses['tokens']:,} tokens",
            *(f"{losses[side]:.4f}" for side in ("source", "before", "after")),
            _or_dash(losses["half"]),
        )
        for words, losses in (
            ("held-out text that decided", recovery["decided"]),
            ("held-out text that decided nothing", recovery["reported"]),
        )
    ]
    if kept := recovery["retention"]:
        before, after = kept["before"], kept["after"]
        sides = (f"{one['artefact_loss']:.4f}" for one in (before, after))
        examples = f"held-out examples of the adapter, {after['examples']}"
        rows.append((examples, f"{after['tuned_loss']:.4f}", *sides, "–"))
    caption = (
        "Loss on text of the domain in nats per token, in the runtime; nothing was fitted to it. "
        "What was tuned is kept where the loss falls by more than half its interval, and where the "
        "loss on held-out examples falls, too."
    )
    columns = ("", "original", "file before", "file tuned", "± 95 %")
    return small_table(caption, columns, rows)


def _times(stages: list[dict[str, Any]]) -> str:
    """Times of the stages that ended before the page was made."""
    rows = [
        (
            stage["stage"],
            duration(stage["predicted_seconds"]),
            duration(stage["seconds"]),
            duration(stage["predicted_cpu_seconds"]),
            duration(stage["cpu_seconds"]),
        )
        for stage in stages
        if stage["seconds"] is not None
    ]
    caption = (
        "Predicted from the shapes of the model, for a machine with nothing else to do, and taken; "
        "what an earlier run had done took nothing"
    )
    columns = ("stage", "predicted", "taken", "processors, predicted", "taken")
    return small_table(caption, columns, rows) if rows else ""


def _table(caption: str, head: str, body: str, *, region: str, label: str) -> str:
    """A table that scrolls on its own; everything but region and label is markup."""
    return (
        f'<p class="caption">{caption}</p>'
        f'<div class="scroll" tabindex="0" role="region" aria-label="{region}">'
        f'<table aria-label="{label}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody>'
        "</table></div>"
    )


def _or_dash(value: float | None) -> str:
    return "–" if value is None else f"{value:.5f}"
