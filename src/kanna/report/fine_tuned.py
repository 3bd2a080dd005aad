"""The table of a fine-tune that was optimized: base, tuned model, and what files keep of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from kanna._util.units import format_size
from kanna.report.tables import NONE, answers_table, small_table

_ALL_COLUMNS = (
    "",
    "size",
    "peak memory",
    "tokens/s",
    "domain loss",
    "general loss",
    "tasks",
    "valid calls",
    "KL to the tuned model",
    "kept of the gain",
)
_APART_COLUMNS = (
    "",
    "adapter",
    "base loss",
    "tuned loss",
    "loss here",
    "KL to the tuned model",
    "kept of the gain",
)
_COLUMNS = ("", "size", "domain loss", "general loss", "KL to the tuned model", "kept of the gain")


def fine_tuned(data: dict[str, Any]) -> str:
    """Returns the table; empty where no row was held to a fine-tune.

    Args:
        data: `CompareResult.to_dict()`.
    """
    whole_table = (data.get("optimize") or {}).get("fine_tune")
    if whole_table:
        return _whole(whole_table)
    if any(row.get("beside") for row in data["rows"]):
        return _apart(data["rows"])
    judged = [row for row in data["rows"] if row.get("retention")]
    if not judged:
        return ""
    first = judged[0]["retention"]
    whole = data["source"].get("bytes")
    size = format_size(whole) if whole else NONE
    general = _nats(data["evaluation"].get("reference_perplexity"))
    rows = [
        ("base, as it was given", size, f"{first['base_loss']:.4f}", NONE, NONE, NONE),
        ("tuned, 16 bits", size, f"{first['tuned_loss']:.4f}", general, "0", "100.0%"),
        *(_row(row) for row in judged),
    ]
    caption = (
        "Losses are in nats per token: domain, the held-out answers of the fine-tune "
        f"({first['examples']} examples, {first['tokens']:,} tokens); general, the text that "
        "perplexity is measured on. Kept: (base − file) ÷ (base − tuned), with its 95 % interval."
    )
    return small_table(caption, _COLUMNS, rows)


def _apart(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table of adapters that lie beside each file."""
    caption = (
        "What adapters keep beside each file, on the held-out answers of each. Losses are in nats "
        "per token. Kept: (base − here) ÷ (base − tuned), all in the runtime of the file, with its "
        "95 % interval."
    )
    made = [
        (
            row["name"],
            one["adapter"],
            *(f"{one[f'{which}_loss']:.4f}" for which in ("base", "tuned", "artefact")),
            f"{one['kl']:.2e}",
            _share(one),
        )
        for row in rows
        for one in row["beside"]
    ]
    return small_table(caption, _APART_COLUMNS, made)


def _whole(table: dict[str, Any]) -> str:
    """The table with every row, and answers side by side."""
    rows = table["rows"]
    asked = next((row["calls"]["asked"] for row in rows if row["calls"]), 0)
    caption = (
        "Losses are in nats per token: domain, the held-out answers of the fine-tune; general, "
        f"{table['general_tokens']:,} tokens of the text that perplexity is measured on. The base "
        "in 16 bits is as large and as fast as the tuned model; losses of both are in float32."
        + (f" Valid calls: of answers to {asked} held-out prompts with tools." if asked else "")
        + " Kept: (base − file) ÷ (base − tuned), with its 95 % interval."
    )
    markup = small_table(caption, _ALL_COLUMNS, map(_full_row, rows))
    if not table["samples"]:
        return markup
    columns = ("prompt", "wanted", *(row["name"] for row in rows))
    answers = [(one["prompt"], one["wanted"], *one["answers"]) for one in table["samples"]]
    return markup + answers_table("Held-out prompts, answered greedily and cut", columns, answers)


def _full_row(row: dict[str, Any]) -> tuple[str, ...]:
    calls, speed = row["calls"], row["gen_tps"]
    return (
        row["name"],
        format_size(row["file_bytes"]) if row["file_bytes"] else NONE,
        format_size(row["peak_bytes"]) if row["peak_bytes"] else NONE,
        NONE if speed is None else f"{speed:.1f}",
        f"{row['domain_loss']:.4f}",
        f"{row['general_loss']:.4f}",
        "; ".join(f"{t['name']}: {t['solved']} of {t['examples']}" for t in row["tasks"]) or NONE,
        f"{calls['valid']} of {calls['asked']}" if calls else NONE,
        f"{row['kl']:.2e}",
        _share(row),
    )


def _share(kept: dict[str, Any]) -> str:
    """What is kept, with its interval."""
    interval = kept["interval"]
    around = f" ({interval[0]:.1%} to {interval[1]:.1%})" if interval else ""
    return NONE if kept["share"] is None else f"{kept['share']:.1%}{around}"


def _row(row: dict[str, Any]) -> tuple[str, ...]:
    kept = row["retention"]
    return (
        f"tuned, {row['name']}",
        format_size(row["file_bytes"]) if row["file_bytes"] else NONE,
        f"{kept['artefact_loss']:.4f}",
        _nats(row["perplexity"]),
        f"{kept['kl']:.2e}",
        _share(kept),
    )


def _nats(perplexity: float | None) -> str:
    return f"{math.log(perplexity):.4f}" if perplexity else NONE
