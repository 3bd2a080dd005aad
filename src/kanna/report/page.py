"""The HTML page: one file, no script, nothing from the network."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timezone
from typing import Any

from kanna._util.units import format_size
from kanna.checks import describe_reference
from kanna.escaping import html_text
from kanna.report.chart import chart
from kanna.report.headline import headline
from kanna.report.optimized import sections
from kanna.report.style import CSS
from kanna.report.tables import pairs, small_table, tables
from kanna.report.words import words

# Even if something slipped into a name or a licence, the page may load and run nothing.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


REFRESH = 15
"""Seconds until a page that grows is read again; it is written several times meanwhile."""


def html_page(data: dict[str, Any]) -> str:
    """Returns the report of `CompareResult.to_dict()` as one self-contained page."""
    name = html_text(data["name"])
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="generator" content="kanna {html_text(data["version"])}">
<title>{name}: size, quality, speed</title>
{_refresh(data)}<style>{CSS}</style>
</head>
<body>
<header>
<h1>{name}</h1>
<p class="muted">{_subtitle(data)}</p>
</header>
<main>
{_unfinished(data) or headline(data)}
{chart(data)}
<h2>Measured</h2>
{tables(data)}
{pairs(data)}
{_how_measured(data)}
{sections(data)}
<h2>What is in each file</h2>
{"".join(_plan(row) for row in data["rows"] if row["role"] != "floor")}
<h2>How to read it, how to repeat it</h2>
{words()}
{_rule(data)}
<pre tabindex="0">{html_text(data["command"])}</pre>
<h2>Environment</h2>
{_list(data["environment"].items())}
{_notes(data)}
</main>
<footer>{_footer(data)}</footer>
</body>
</html>
"""


def _refresh(data: dict[str, Any]) -> str:
    """While it goes on, the page is read again now and then, under an address that says its stamp.

    A page without scripts cannot ask how old it is. But if it was not written again meanwhile, it
    has the element that its address names, and the style below shows what `:target` selects.
    """
    state = data.get("unfinished") or {}
    if not state or state["stopped"]:
        return ""
    stamp = _stamp(state)
    return (
        f'<meta http-equiv="refresh" content="{REFRESH}; url=?{stamp}#{stamp}">\n'
        "<style>.interrupted{display:none}.interrupted:target{display:block}"
        ".interrupted:target+.pick{display:none}</style>\n"
    )


def _stamp(state: dict[str, Any]) -> str:
    return f"written-{int(state.get('written', 0) * 1000)}"


def _unfinished(data: dict[str, Any]) -> str:
    """What is being done, in place of a recommendation."""
    state = data.get("unfinished") or {}
    if not state:
        return ""
    if state["stopped"]:
        return _state("Stopped", state["doing"])
    interrupted = _state(
        "Interrupted",
        f"nothing was written here for {REFRESH} seconds while {state['doing']}: the run was "
        "ended, or it waits. Run the command below again to go on, then load this page again",
        f' id="{_stamp(state)}"',
        "pick interrupted",
    )
    more = "This page shows each result when it is there. "
    if written := state.get("written"):
        at = datetime.fromtimestamp(written, timezone.utc)
        more += f"Written at {at:%H:%M:%S} UTC, and again every few seconds while the run lives. "
    return interrupted + _state("Being measured", state["doing"], more=more)


def _state(
    head: str, text: str, attributes: str = "", kind: str = "pick", *, more: str = ""
) -> str:
    return (
        f'<section class="{kind}" aria-label="{head}"{attributes}><p class="kicker">{head}</p>'
        f"<p>{html_text(text[:1].upper() + text[1:])}.</p>"
        f'<p class="muted">{html_text(more)}Nothing is recommended before everything is measured.'
        "</p></section>"
    )


def _rule(data: dict[str, Any]) -> str:
    rule = data["recommended"]["rule"]
    return f'<p class="muted">How the recommendation is made: {html_text(rule)}</p>' if rule else ""


def _notes(data: dict[str, Any]) -> str:
    notes = "".join(
        f'<p class="note" role="note">{html_text(n[:1].upper() + n[1:])}</p>' for n in data["notes"]
    )
    return f"<h2>Notes</h2>{notes}" if notes else ""


def _footer(data: dict[str, Any]) -> str:
    return (
        f"Made with kanna {html_text(data['version'])}. "
        "The numbers of this page are in the JSON file beside it."
    )


def _subtitle(data: dict[str, Any]) -> str:
    source = data["source"]
    parts = [
        f"{source['parameters'] / 1e6:,.1f} M parameters" if source.get("parameters") else "",
        f"family {source['family']}" if source.get("family") else "",
        f"source: {source['type']}" if source.get("type") else "",
        f"licence: {source['license']}"
        if source.get("license")
        else "licence: not stated by the source",
        data.get("date", ""),
    ]
    return html_text(" · ".join(p for p in parts if p))


def _how_measured(data: dict[str, Any]) -> str:
    evaluation = data["evaluation"]
    sentences = [
        f"KL divergence is in nats over the whole vocabulary, against {evaluation['reference']}, "
        f"at {evaluation['positions']:,} positions of {evaluation['text']}"
        if evaluation.get("positions")
        else "",
        # Reports of earlier versions do not say how long a window was.
        f"scored in the second half of each {evaluation.get('context', 512)}-token window"
        if evaluation.get("positions")
        else "",
        f"perplexity of the reference: {evaluation['reference_perplexity']:.3f}"
        if evaluation.get("reference_perplexity")
        else "",
        describe_reference(evaluation),
    ]
    return (
        f'<p class="muted">{html_text("; ".join(s for s in sentences if s))}.</p>'
        if any(sentences)
        else ""
    )


def _plan(row: dict[str, Any]) -> str:
    bits, nominal = row["bits_per_weight"], row["nominal_bits"]
    real = f"{bits:.2f} bits per weight" if bits else ""
    if bits and nominal and abs(bits - nominal) > 0.01:
        real = f"nominal {nominal:.2f}, real {bits:.2f} bits per weight"
    about = ", ".join(p for p in (row["file"], real, row["precision_class"]) if p)
    parts = [f"<p>{html_text(about)}</p>"]
    parts += [f'<p class="note">{html_text(n)}</p>' for n in row["notes"]]
    if row["substitutions"]:
        cells = [(s["name"], s["wanted"], s["got"], s["reason"]) for s in row["substitutions"]]
        title = f"{len(cells)} tensors could not hold the encoding that was meant for them"
        parts.append(small_table(title, ("tensor", "wanted", "got", "reason"), cells))
    if row["checks"]:
        marks = {True: "✓", False: "✗", None: "–"}
        checks = [
            (marks.get(c["ok"], "–"), c["name"], str(c.get("detail", ""))) for c in row["checks"]
        ]
        parts.append(small_table("The checks", ("", "check", "detail"), checks))
    if row["tensors"]:
        cells = [
            (
                t["name"],
                " × ".join(map(str, t["shape"])),
                t["source"],
                t["encoding"],
                t["method"],
                size,
            )
            for t in row["tensors"]
            for size in [format_size(t["bytes"])]
        ]
        parts.append(
            small_table("Every tensor", ("tensor", "shape", "from", "to", "method", "size"), cells)
        )
    number = len(row["substitutions"])
    count = f": {number} substitution{'s' if number > 1 else ''}" if number else ""
    return f"<details><summary>{html_text(row['name'])}{count}</summary>{''.join(parts)}</details>"


def _list(pairs: Iterable[tuple[str, Any]]) -> str:
    return (
        "<dl>"
        + "".join(f"<dt>{html_text(k)}</dt><dd>{html_text(str(v))}</dd>" for k, v in pairs)
        + "</dl>"
    )
