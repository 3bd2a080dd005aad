"""Rows of results, printed as JSON or as a Markdown table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]


def print_rows(rows: Sequence[Row], as_json: bool) -> None:
    """Print rows as JSON, or as a Markdown table without what is nested or missing."""
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    if not rows:
        print("no rows")
        return
    flat = [{k: v for k, v in row.items() if not isinstance(v, dict)} for row in rows]
    print("| " + " | ".join(flat[0]) + " |\n|" + "---|" * len(flat[0]))
    for row in flat:
        print("| " + " | ".join(_cell(value) for value in row.values()) + " |")


def print_successes(rows: Sequence[Row], peer: str, as_json: bool) -> None:
    """Name the ways of `peer`, a column, that failed and why; print the rows of the others."""
    for row in rows:
        if "failed" in row:
            print(f"{row[peer]}: {row['failed']}\n")
    print_rows([row for row in rows if "failed" not in row], as_json)


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
