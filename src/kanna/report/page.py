"""The HTML page: one file, no script, nothing from the network."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Any

from kanna._util.units import format_size
from kanna.report.chart import chart
from kanna.report.optimized import sections
from kanna.report.style import CSS

# Even if something slipped into a name or a licence, the page may load and run nothing.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"

_GATE = {
    "proved": ("ok", "✓ proved"),
    "failed": ("bad", "✗ failed"),
    "unprovable": ("unknown", "– not provable here"),
}


def html_page(data: dict[str, Any]) -> str:
    """Returns the report of `CompareResult.to_dict()` as one self-contained page."""
    name = escape(data["name"])
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="generator" content="kanna {escape(data["version"])}">
<title>{name}: size, quality, speed</title>
<style>{CSS}</style>
</head>
<body>
<header>
<h1>{name}</h1>
<p class="muted">{_subtitle(data)}</p>
</header>
<main>
{"".join(f'<p class="note" role="note">{escape(n[:1].upper() + n[1:])}</p>' for n in data["notes"])}
{chart(data)}
{_pick(data)}
<h2>Measured</h2>
{_tables(data)}
{_pairs(data)}
{_how_measured(data)}
{sections(data)}
<h2>What is in each file</h2>
{"".join(_plan(row) for row in data["rows"] if row["role"] != "floor")}
<h2>Environment</h2>
{_list(data["environment"].items())}
<h2>Reproduce</h2>
<pre tabindex="0">{escape(data["command"])}</pre>
</main>
<footer>{_footer(data)}</footer>
</body>
</html>
"""


def _footer(data: dict[str, Any]) -> str:
    return (
        f"Made with kanna {escape(data['version'])}. "
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
    return escape(" · ".join(p for p in parts if p))


def _pick(data: dict[str, Any]) -> str:
    pick = data["recommended"]
    if not pick["name"]:
        return (
            '<section class="pick"><strong>No recommendation</strong>'
            f"<p>{escape(pick['why'])}</p></section>"
        )
    return (
        '<section class="pick" aria-label="Recommended">'
        f"<strong>★ {escape(pick['name'])}</strong><p>{escape(pick['why'])}</p>"
        f'<p class="muted">How it was picked: {escape(pick["rule"])}</p></section>'
    )


_QUALITY = (
    "preset",
    "gate",
    "file",
    "bits/weight",
    "KL mean",
    "KL median",
    "KL 99 %",
    "KL 99.9 %",
    "same top",
    "perplexity",
    "÷ source",
)
_SPEED = (
    "preset",
    "generate",
    "× faster",
    "prompt",
    "first token",
    "load",
    "peak memory",
    "less memory",
)


def _tables(data: dict[str, Any]) -> str:
    quality: list[tuple[str, ...]] = []
    speed: list[tuple[str, ...]] = []
    for row in data["rows"]:
        kind, words = _GATE.get(row["gate"] or "", ("muted", "–"))
        quality.append(
            (
                f'<span class="{kind}">{words}</span>',
                format_size(row["file_bytes"]) if row["file_bytes"] else "–",
                _num(row["bits_per_weight"], 2),
                _with_ci(row, "kl_mean", 5),
                _num(row["kl_median"], 5),
                _num(row["kl_p99"], 3),
                _num(row["kl_p999"], 3),
                _num(row["top1"], 1, scale=100, unit=" %"),
                _num(row["perplexity"], 2),
                _with_ci(row, "perplexity_ratio", 3),
            )
        )
        speed.append(
            (
                _num(row["gen_tps"], 1, unit=" tok/s"),
                _num(row["speedup"], 2),
                _num(row["prompt_tps"], 1, unit=" tok/s"),
                _num(row["ttft_s"], 3, unit=" s"),
                _num(row["load_s"], 2, unit=" s"),
                format_size(row["peak_bytes"]) if row["peak_bytes"] else "–",
                _num(row["less_memory"], 0, scale=100, unit=" %"),
            )
        )
    caption = (
        "Size and quality; ± is a 95 % confidence interval, "
        "÷ source the perplexity divided by the source's."
    )
    parts = [_table(data, caption, _QUALITY, quality)]
    if any(row["gen_tps"] for row in data["rows"]):
        caption = (
            "Speed and memory on this machine; "
            "× faster and less memory are against the 16-bit baseline."
        )
        parts.append(_table(data, caption, _SPEED, speed))
    return "".join(parts)


def _pairs(data: dict[str, Any]) -> str:
    """Artefacts of different formats at nearly equal bytes; empty where one format was compared."""
    rows = [
        [
            " / ".join(pair["names"]),
            f"{format_size(pair['bytes'][0])}, {pair['larger']:+.1%}",
            " / ".join(_num(v, 5) for v in pair["kl_mean"]),
            " / ".join(_num(v, 1) for v in pair["gen_tps"]),
            " / ".join("–" if v is None else format_size(v) for v in pair["peak_bytes"]),
        ]
        for pair in data.get("pairs", [])
    ]
    columns = ("artefacts", "size", "KL mean", "tokens/s", "peak memory")
    return _small_table("At equal bytes, each in its own runtime", columns, rows) if rows else ""


def _table(
    data: dict[str, Any], caption: str, columns: tuple[str, ...], cells: list[tuple[str, ...]]
) -> str:
    """A table with a row per artefact; `cells` are markup already."""
    best = data["recommended"]["name"]
    head = "".join(
        f'<th scope="col"{" class=text" if i == 0 else ""}>{c}</th>' for i, c in enumerate(columns)
    )
    body: list[str] = []
    for row, values in zip(data["rows"], cells, strict=True):
        assert len(values) == len(columns) - 1
        if all(v == "–" for v in values):
            continue
        recommended = row["name"] == best
        body.append(
            f'<tr class="{"best" if recommended else row["role"]}"><th scope="row" class="text">'
            f"{'★ ' if recommended else ''}{escape(row['name'])}</th>"
            + "".join(f"<td>{v}</td>" for v in values)
            + "</tr>"
        )
    return _scrolling_table(caption, head, "".join(body))


def _scrolling_table(caption: str, head: str, body: str) -> str:
    """A table that scrolls under its caption where it is too wide; head and body are markup."""
    label = escape(caption)
    return (
        f'<p class="caption" aria-hidden="true">{label}</p>'
        f'<div class="scroll" tabindex="0" role="region" aria-label="{label}">'
        f'<table aria-label="{label}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody>'
        "</table></div>"
    )


def _how_measured(data: dict[str, Any]) -> str:
    evaluation = data["evaluation"]
    sentences = [
        f"KL divergence is in nats over the whole vocabulary, against {evaluation['reference']}, "
        f"at {evaluation['positions']:,} positions of {evaluation['text']}"
        if evaluation.get("positions")
        else "",
        "scored in the second half of each 512-token window" if evaluation.get("positions") else "",
        f"perplexity of the reference: {evaluation['reference_perplexity']:.3f}"
        if evaluation.get("reference_perplexity")
        else "",
    ]
    return (
        f'<p class="muted">{escape("; ".join(s for s in sentences if s))}.</p>'
        if any(sentences)
        else ""
    )


def _plan(row: dict[str, Any]) -> str:
    bits, nominal = row["bits_per_weight"], row["nominal_bits"]
    real = f"{bits:.2f} bits per weight" if bits else ""
    if bits and nominal and abs(bits - nominal) > 0.01:
        real = f"nominal {nominal:.2f}, real {bits:.2f} bits per weight"
    parts = [
        f"<p>{escape(', '.join(p for p in (row['file'], real, row['precision_class']) if p))}</p>"
    ]
    parts += [f'<p class="note">{escape(n)}</p>' for n in row["notes"]]
    if row["substitutions"]:
        cells = [(s["name"], s["wanted"], s["got"], s["reason"]) for s in row["substitutions"]]
        title = f"{len(cells)} tensors could not hold the encoding that was meant for them"
        parts.append(_small_table(title, ("tensor", "wanted", "got", "reason"), cells))
    if row["checks"]:
        marks = {True: "✓", False: "✗", None: "–"}
        checks = [
            (marks.get(c["ok"], "–"), c["name"], str(c.get("detail", ""))) for c in row["checks"]
        ]
        parts.append(_small_table("The gate", ("", "check", "detail"), checks))
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
            _small_table("Every tensor", ("tensor", "shape", "from", "to", "method", "size"), cells)
        )
    number = len(row["substitutions"])
    count = f": {number} substitution{'s' if number > 1 else ''}" if number else ""
    return f"<details><summary>{escape(row['name'])}{count}</summary>{''.join(parts)}</details>"


def _small_table(caption: str, columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = "".join(f'<th scope="col" class="text">{escape(c)}</th>' for c in columns)
    body = "".join(
        "<tr>" + "".join(f'<td class="text wrap">{escape(c)}</td>' for c in r) + "</tr>"
        for r in rows
    )
    return _scrolling_table(caption, head, body)


def _list(pairs: Iterable[tuple[str, Any]]) -> str:
    return (
        "<dl>"
        + "".join(f"<dt>{escape(k)}</dt><dd>{escape(str(v))}</dd>" for k, v in pairs)
        + "</dl>"
    )


def _num(value: float | None, digits: int, *, scale: float = 1.0, unit: str = "") -> str:
    return "–" if value is None else f"{value * scale:.{digits}f}{unit}"


def _with_ci(row: dict[str, Any], name: str, digits: int) -> str:
    """A number and half the width of its 95 % interval."""
    value, interval = row[name], row.get(f"{name}_ci")
    if value is None or not interval:
        return _num(value, digits)
    half = (interval[1] - interval[0]) / 2
    if 0 < value < 10**-digits * 5:
        return f'{value:.1e} <span class="muted">± {half:.0e}</span>'
    return f'{value:.{digits}f} <span class="muted">± {half:.{digits}f}</span>'
