"""The chart of a report for the output of a notebook cell."""

from __future__ import annotations

import re
from typing import Any

from kanna.report.chart import chart, points
from kanna.report.style import CSS

_INK = """--ink: #1c2024; --muted: #60646c; --panel: #f6f7f9; --line: #d9dce1; --accent: #0b7a55;
  --warn: #8a4b00; max-width: 900px;"""


def notebook_chart(data: dict[str, Any]) -> str:
    """The wide chart as SVG with the style it needs; nothing where no file was evaluated."""
    if not points(data):
        return ""
    rules = re.findall(r"(?m)^\.chart[^{}]*\{[^{}]*\}", CSS)
    style = "\n".join(f".kanna-report {rule}" for rule in rules)
    return (
        f"<style>.kanna-report {{ {_INK} }}\n{style}</style>"
        f'<div class="kanna-report">{chart(data)}</div>'
    )
