"""The table of a fine-tune that was optimized: base, tuned model, and what files keep of it."""

from __future__ import annotations

import math
from typing import Any

from kanna._util.units import format_size
from kanna.report.tables import NONE, small_table

_COLUMNS = ("", "size", "domain loss", "general loss", "KL to the tuned model", "kept of the gain")


def fine_tuned(data: dict[str, Any]) -> str:
    """Returns the table; empty where no row was held to a fine-tune.

    Args:
        data: `CompareResult.to_dict()`.
    """
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


def _row(row: dict[str, Any]) -> tuple[str, ...]:
    kept = row["retention"]
    interval = kept["interval"]
    around = f" ({interval[0]:.1%} to {interval[1]:.1%})" if interval else ""
    return (
        f"tuned, {row['name']}",
        format_size(row["file_bytes"]) if row["file_bytes"] else NONE,
        f"{kept['artefact_loss']:.4f}",
        _nats(row["perplexity"]),
        f"{kept['kl']:.2e}",
        NONE if kept["share"] is None else f"{kept['share']:.1%}{around}",
    )


def _nats(perplexity: float | None) -> str:
    return f"{math.log(perplexity):.4f}" if perplexity else NONE
