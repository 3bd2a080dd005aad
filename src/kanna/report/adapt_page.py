"""The page of a training run: losses, what changed, sample answers, the data, what it cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kanna._util.units import format_size
from kanna.checks import gate_word
from kanna.escaping import html_text
from kanna.report.losses import losses
from kanna.report.page import POLICY
from kanna.report.style import CSS
from kanna.report.tables import NONE, answers_table, small_table

_STOPPED = {
    "done": "all steps were made",
    "early": "the held-out loss fell no more",
    "time": "the time was over",
    "nan": "the loss was no number; the best state before it is kept",
}


def adapt_page(data: Mapping[str, Any]) -> str:
    """Returns the report of `AdaptResult.to_dict()` as one self-contained page.

    Args:
        data: The result, in JSON's own types, with `kanna`, the version.
    """
    name = html_text(data["path"])
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="generator" content="kanna {html_text(data["kanna"])}">
<title>{name}: {"a model" if _is_full(data) else "an adapter"}, trained</title>
<style>{CSS}</style>
</head>
<body>
<header>
<h1>{name}</h1>
<p class="muted">{"All weights" if _is_full(data) else "An adapter"} of
{html_text(data["base"])}, trained by {html_text(data["objective"])} with
{html_text(data["settings"]["method"])}</p>
</header>
<main>
{_headline(data)}
<h2>Losses</h2>
{losses(_history(data)) or "<p>Too few steps for a chart.</p>"}
<h2>Before and after</h2>
{_changes(data)}
{_gate(data)}
{_aware(data)}
{_draft(data)}
{_samples(data)}
<h2>Data</h2>
{_data(data)}
<h2>Time and memory</h2>
{_costs(data)}
<h2>Settings</h2>
{small_table("How it was trained", ("setting", "value"), _settings(data["settings"]))}
{_notes(data)}
</main>
<footer>Made with kanna {html_text(data["kanna"])}. The numbers of this page are in report.json
beside it.</footer>
</body>
</html>
"""


def _is_full(data: Mapping[str, Any]) -> bool:
    """Whether all weights were trained, and what was written is a model."""
    return data["settings"]["method"] == "full"


def _headline(data: Mapping[str, Any]) -> str:
    base, tuned = data["base_loss"], data["tuned_loss"]
    fell = base is not None and tuned is not None and tuned < base
    gate = data["gate"]
    lost = gate.get("status") == "failed"
    head = "It learned" if fell else "It learned nothing that held"
    if fell and lost:
        head = "It learned, and a check in llama.cpp failed: do not use it"
    kind = "pick failed" if lost or not fell else "pick"
    stopped = _STOPPED.get(data["stopped"], str(data["stopped"]))
    return (
        f'<section class="{kind}" aria-label="Outcome"><p class="kicker">{head}</p>'
        f'<p class="file">held-out loss {_number(base)} → {_number(tuned)}</p>'
        f"<p>{data['steps']} steps, the best after {data['best_step']}: {html_text(stopped)}.</p>"
        f"{_seen(gate)}</section>"
    )


def _seen(gate: Mapping[str, Any]) -> str:
    """What llama.cpp makes of what was trained, in a sentence."""
    if not gate:
        return "<p>Not checked in llama.cpp.</p>"
    share = "" if gate["share"] is None else f", with {gate['share']:.1%} of the gain"
    return f"<p>In llama.cpp: {gate_word(gate['status'])}{share}.</p>"


def _history(data: Mapping[str, Any]) -> list[dict[str, float | None]]:
    """Losses by step, from the base on."""
    return [{"step": 0, "held_out_loss": data["base_loss"]}, *data["history"]]


def _changes(data: Mapping[str, Any]) -> str:
    names = (
        ("domain_loss", "domain loss"),
        ("general_loss", "general loss"),
        ("teacher_kl", "KL to the teacher"),
        ("accuracy", "preference accuracy"),
        ("margin", "margin"),
    )
    sides = (("base", data["base_figures"]), ("tuned", data["tuned_figures"]))
    used = [(key, words) for key, words in names if any(key in side for _, side in sides)]
    rows = [(side, *(_figure(key, figures.get(key)) for key, _ in used)) for side, figures in sides]
    meaning = (
        "Nats per token: domain, the held-out answers; general, built-in text that nobody trains "
        "on, which rises where a model forgets."
    )
    if any(key == "accuracy" for key, _ in used):
        meaning += (
            " Preference accuracy: held-out pairs whose chosen answer is likelier per token; "
            "margin: by how many nats."
        )
    return small_table(meaning, ("model", *(words for _, words in used)), rows)


def _figure(key: str, value: float | None) -> str:
    if value is None:
        return NONE
    return f"{value:.1%}" if key == "accuracy" else _number(value)


def _gate(data: Mapping[str, Any]) -> str:
    gate = data["gate"]
    if not gate:
        return ""
    marks = {True: "✓", False: "✗", None: "–"}
    rows = [(marks[check["ok"]], check["name"], check["detail"]) for check in gate["checks"]]
    what, where = "The adapter", "beside its base"
    if _is_full(data):
        what, where = "The model", f"as {gate['preset']}"
    elif gate["preset"]:
        where = f"merged into its base as {gate['preset']}"
    caption = (
        f"{what} read again, {where}, and run in llama.cpp, against what was measured in training"
    )
    table = small_table(caption, ("", "check", "detail"), rows)
    return f"<h2>In llama.cpp: {gate_word(gate['status'])}</h2>{table}"


def _aware(data: Mapping[str, Any]) -> str:
    outcome = data["aware"]
    if not outcome:
        return ""
    names = {"plain": "trained as usual", "aware": "trained on with the values that are stored"}
    rows = [
        (
            words + (", kept" if outcome["kept"] == key else ""),
            _number(outcome[key]["loss"]),
            NONE if outcome[key]["share"] is None else f"{outcome[key]['share']:.1%}",
        )
        for key, words in names.items()
    ]
    caption = (
        f"Both adapters merged, converted to {outcome['plan']} and scored in llama.cpp on the "
        f"held-out examples. Base {_number(outcome['base_loss'])}, tuned in float32 "
        f"{_number(outcome['tuned_loss'])}; {outcome['steps']} steps more, encoded anew after "
        f"every {outcome['every']}"
    )
    table = small_table(caption, ("adapter", "held-out loss", "share of the gain"), rows)
    return f"<h2>As {html_text(outcome['plan'])} stores it</h2>{table}"


_COUNTED = (("tuned", "tuned"), ("tuned, drafter retrained", "retrained"))


def _draft(data: Mapping[str, Any]) -> str:
    outcome = data["draft"]
    if not outcome:
        return ""
    sides = [("base", outcome["base"]), ("tuned", outcome["tuned"])]
    if outcome["retrained"]:
        words = "tuned, drafter retrained" + ("" if outcome["kept"] else ", not kept")
        sides.append((words, outcome["retrained"]))
    if counted := outcome["runtime"]:
        sides += [(f"{words}, in llama.cpp", counted[side]) for words, side in _COUNTED]
    rows = [
        (
            side,
            f"{figures['acceptance']:.1%}",
            f"{figures['accepted']} of {figures['drafted']}",
            f"{figures['tokens_per_step']:.2f}",
        )
        for side, figures in sides
    ]
    caption = (
        f"Guesses of {outcome['guesser']}, {outcome['base']['ahead']} at a time, while the model "
        f"writes answers to {outcome['prompts']} held-out prompts, always the likeliest token"
    )
    columns = ("model", "guesses taken", "of so many", "tokens a step")
    return f"<h2>Speculative decoding</h2>{small_table(caption, columns, rows)}"


def _samples(data: Mapping[str, Any]) -> str:
    rows = [(s["prompt"], s["wanted"], s["before"], s["after"]) for s in data["samples"]]
    columns = ("prompt", "wanted", "base", "tuned")
    caption = "Held-out prompts, answered greedily and cut"
    return f"<h2>Sample answers</h2>{answers_table(caption, columns, rows)}" if rows else ""


def _data(data: Mapping[str, Any]) -> str:
    words: dict[str, str] = {
        "train": "learned",
        "held_out": "held out",
        "duplicates": "there twice, left out once",
        "near_duplicates": "nearly the same as another, kept on its side",
        "cut": "longer than the limit, cut",
        "unlearned": "without an answer within it, left out",
    }
    rows = [(words.get(key, str(key)), str(count)) for key, count in data["examples"].items()]
    rows.append(("learned tokens", f"{data['tokens']:,}"))
    if packing := data["packing"]:
        rows.append(("padding", _padding(packing)))
    lengths = data["lengths"]
    bins = [(f"up to {end:,}", str(count)) for end, count in lengths["bins"]]
    caption = (
        f"Tokens of examples: half have at most {lengths['median']:,}, nine of ten "
        f"{lengths['p90']:,}, the longest {lengths['most']:,}; the limit is {lengths['limit']:,}"
    )
    return small_table("Examples", ("which", "how many"), rows) + small_table(
        caption, ("tokens", "examples"), bins
    )


def _padding(packing: Mapping[str, Any]) -> str:
    """How many tokens are padding, packed and not."""
    tokens = packing["padding"]
    padded, packed = (1 - tokens["read"] / tokens[key] for key in ("padded", "packed"))
    used = "packed" if packing["used"] else "not packed"
    return f"{padded:.0%} of batches is padding, {packed:.0%} of packed rows; {used}"


def _costs(data: Mapping[str, Any]) -> str:
    costs = data["costs"]
    rows = [
        (
            "time of training",
            f"{costs['predicted_seconds']:.0f} s for all steps, by the first ones",
            f"{costs['training_seconds']:.0f} s for {data['steps']} steps",
        ),
        (
            "looks at held-out examples",
            "a fifth of the time, beside the first and the last one",
            f"{costs['looking_seconds']:.0f} s, all of them",
        ),
        (
            "memory",
            f"{format_size(costs['predicted_bytes'])}, of weights and training alone"
            if costs["predicted_bytes"]
            else NONE,
            f"{format_size(costs['peak_bytes'])}, the whole process"
            if costs["peak_bytes"]
            else "not measured here",
        ),
    ]
    return small_table("What it cost", ("", "predicted", "measured"), rows)


def _settings(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values of what was set; what was not is left out."""
    return [
        (key.replace("_", " "), _said(value))
        for key, value in settings.items()
        if value is not None
    ]


def _said(value: object) -> str:
    """`yes`, `0.005`, `8`, a word."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _notes(data: Mapping[str, Any]) -> str:
    notes = "".join(
        f'<p class="note" role="note">{html_text(n[:1].upper() + n[1:])}</p>' for n in data["notes"]
    )
    return f"<h2>Notes</h2>{notes}" if notes else ""


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:.4f}"
