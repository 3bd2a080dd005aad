"""The tables of what was measured: quality, speed, and pairs of two formats."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from kanna._util.units import format_size, share_less, with_range
from kanna.checks import gate_word
from kanna.closeness import grade_name
from kanna.escaping import html_text
from kanna.report.headline import GATE_CLASS, GATE_MARK

NONE = "–"
FLOOR = "runtime rounding"
"""What the row `floor` of a comparison is called: its own weights, computed with in 8 bits."""

# What decides comes first: a phone shows three columns.
_QUALITY = (
    "preset",
    "file",
    "closeness, mean KL",
    "same next token, %",
    "checks",
    "bits per weight",
    "KL median",
    "KL 99 %",
    "KL 99.9 %",
    "perplexity",
    "÷ source",
)
_SPEED = (
    "preset",
    "generate",
    "× faster",
    "peak memory",
    "less memory",
    "prompt",
    "first token",
    "load",
)


def tables(data: dict[str, Any]) -> str:
    """Returns quality and speed of every file; columns without a figure are left out."""
    quality, speed = [], []
    for row in data["rows"]:
        quality.append(_quality(row))
        speed.append(_speed(row))
    caption = (
        "Size and closeness; ± is a 95 % confidence interval, "
        "÷ source the perplexity divided by the source's."
    )
    if any(row["role"] == "floor" for row in data["rows"]):
        caption += f" {FLOOR.capitalize()}: no file can be closer than this there."
    parts = [_table(data, caption, _QUALITY, quality)]
    if any(row["gen_tps"] for row in data["rows"]):
        caption = (
            "Speed and memory on this machine, with the slowest and fastest round; "
            "× faster and less memory are against the 16-bit file."
        )
        parts.append(_table(data, caption, _SPEED, speed))
    return "".join(parts)


def _quality(row: dict[str, Any]) -> tuple[str, ...]:
    word = gate_word(row["gate"])
    look = GATE_CLASS.get(word, "unknown")
    checks = f'<span class="{look}">{GATE_MARK.get(word, "")}{word}</span>' if word else NONE
    name = grade_name(row) if row["role"] != "floor" else None
    chip = f'<span class="grade {name}">{name}</span>' if name else ""
    kl = _with_ci(row, "kl_mean", 5)
    return (
        _size(row["file_bytes"]),
        NONE if kl == NONE else f'{chip}<span class="figure">{kl}</span>',
        _num(row["top1"], 1, scale=100),
        checks,
        _num(row["bits_per_weight"], 2),
        _num(row["kl_median"], 5),
        _num(row["kl_p99"], 3),
        _num(row["kl_p999"], 3),
        _num(row["perplexity"], 2),
        _with_ci(row, "perplexity_ratio", 3),
    )


def _speed(row: dict[str, Any]) -> tuple[str, ...]:
    spread = row.get("speed_spread") or {}
    return (
        _ranged(row["gen_tps"], spread.get("gen_tps"), 1, " tok/s"),
        _ranged(row["speedup"], row.get("speedup_spread"), 2),
        _size(row["peak_bytes"]),
        NONE if row["less_memory"] is None else share_less(row["less_memory"]),
        _ranged(row["prompt_tps"], spread.get("prompt_tps"), 0, " tok/s"),
        _ranged(row["ttft_s"], spread.get("ttft_s"), 3, " s"),
        _ranged(row["load_s"], spread.get("load_s"), 2, " s"),
    )


def pairs(data: dict[str, Any]) -> str:
    """Returns files of different formats at nearly equal bytes; empty for one format."""
    rows = [
        [
            " / ".join(pair["names"]),
            f"{format_size(pair['bytes'][0])}, {pair['larger']:+.1%}",
            " / ".join(_num(v, 5) for v in pair["kl_mean"]),
            " / ".join(_num(v, 1) for v in pair["gen_tps"]),
            " / ".join(_size(v) for v in pair["peak_bytes"]),
        ]
        for pair in data.get("pairs", [])
    ]
    columns = ("files", "size", "KL mean", "tokens/s", "peak memory")
    return small_table("At equal bytes, each in its own runtime", columns, rows) if rows else ""


def row_name(row: dict[str, Any]) -> str:
    """Returns what a row is called on the page."""
    return FLOOR if row["role"] == "floor" else row["name"]


def _table(
    data: dict[str, Any], caption: str, columns: Sequence[str], cells: Sequence[Sequence[str]]
) -> str:
    """A table with a row per file; `cells` are markup already."""
    best = data["recommended"]["name"]
    measured = [i for i in range(1, len(columns)) if any(c[i - 1] != NONE for c in cells)]
    head = "".join(
        f'<th scope="col"{" class=text" if i == 0 else ""}>{columns[i]}</th>'
        for i in [0, *measured]
    )
    body: list[str] = []
    for row, values in zip(data["rows"], cells, strict=True):
        assert len(values) == len(columns) - 1
        if all(v == NONE for v in values):
            continue
        recommended = row["name"] == best
        body.append(
            f'<tr class="{"best" if recommended else row["role"]}"><th scope="row" class="text">'
            f"{'★ ' if recommended else ''}{html_text(row_name(row))}</th>"
            + "".join(f"<td>{values[i - 1]}</td>" for i in measured)
            + "</tr>"
        )
    return _scrolling_table(caption, head, "".join(body), kind="measured")


def _scrolling_table(caption: str, head: str, body: str, *, kind: str = "") -> str:
    """A table that scrolls under its caption where it is too wide; head and body are markup."""
    label = html_text(caption)
    return (
        f'<p class="caption" aria-hidden="true">{label}</p>'
        f'<div class="scroll {kind}" tabindex="0" role="region" aria-label="{label}">'
        f'<table aria-label="{label}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody>'
        "</table></div>"
    )


def small_table(caption: str, columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Returns a table of plain texts."""
    head = "".join(f'<th scope="col" class="text">{html_text(c)}</th>' for c in columns)
    body = "".join(
        "<tr>" + "".join(f'<td class="text wrap">{html_text(c)}</td>' for c in r) + "</tr>"
        for r in rows
    )
    return _scrolling_table(caption, head, body)


def answers_table(caption: str, columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Returns a table of what models wrote, which breaks anywhere: a phone shows all columns."""
    return f'<div class="answers">{small_table(caption, columns, rows)}</div>'


def _size(nbytes: float | None) -> str:
    return format_size(nbytes) if nbytes else NONE


def _num(value: float | None, digits: int, *, scale: float = 1.0, unit: str = "") -> str:
    return NONE if value is None else f"{value * scale:.{digits}f}{unit}"


def _ranged(
    value: float | None, spread: Sequence[float] | None, digits: int, unit: str = ""
) -> str:
    """A median with the slowest and fastest round in small letters."""
    if value is None:
        return NONE
    middle, _, around = with_range(value, spread, digits).partition(" (")
    muted = f' <span class="muted around">({around}</span>' if around else ""
    return f"{middle}{unit}{muted}"


def _with_ci(row: dict[str, Any], name: str, digits: int) -> str:
    """A number and half the width of its 95 % interval."""
    value, interval = row[name], row.get(f"{name}_ci")
    if value is None or not interval:
        return _num(value, digits)
    half = (interval[1] - interval[0]) / 2
    if 0 < value < 10**-digits * 5:
        return f'{value:.1e} <span class="muted">± {half:.0e}</span>'
    return f'{value:.{digits}f} <span class="muted">± {half:.{digits}f}</span>'
