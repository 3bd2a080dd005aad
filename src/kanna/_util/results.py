"""What verbs return: a line in a console, tables in a notebook, true when all went well."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kanna.escaping import html_text, visible

_MOST_ROWS = 40
_CELL = "text-align:{};padding:.15em .8em .15em 0;vertical-align:top"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultTable:
    """A table of a result; columns whose name ends in `>` are aligned to the right."""

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    title: str = ""

    def html(self) -> str:
        """The table as HTML, its longest part left out."""
        sides = ["right" if name.endswith(">") else "left" for name in self.columns]
        head = "".join(
            f'<th style="{_CELL.format(side)}">{html_text(name.removesuffix(">"))}</th>'
            for name, side in zip(self.columns, sides, strict=True)
        )
        body = "".join(
            "<tr>"
            + "".join(
                f'<td style="{_CELL.format(side)}">{html_text(_text(cell))}</td>'
                for cell, side in zip(row, sides, strict=True)
            )
            + "</tr>"
            for row in self.rows[:_MOST_ROWS]
        )
        more = len(self.rows) - _MOST_ROWS
        caption = f"<b>{html_text(self.title)}</b>" if self.title else ""
        rest = f"<p>… and {more} more rows</p>" if more > 0 else ""
        header = f"<thead><tr>{head}</tr></thead>" if any(self.columns) else ""
        return f"{caption}<table>{header}<tbody>{body}</tbody></table>{rest}"


class Result:
    """The base of what verbs return."""

    __slots__ = ()

    @property
    def ok(self) -> bool:
        """Whether all went well; a result is true or false by it."""
        return True

    def __bool__(self) -> bool:
        return self.ok

    def headline(self) -> str:
        """What a person wants to know, in one line."""
        return ""

    def facts(self) -> Sequence[tuple[str, object]]:
        """Names and values for a notebook; empty values are left out."""
        return ()

    def tables(self) -> Sequence[ResultTable]:
        """Tables for a notebook."""
        return ()

    def chart(self) -> str:
        """A chart for a notebook as SVG, or nothing."""
        return ""

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON has it."""
        raise NotImplementedError

    def __repr__(self) -> str:
        line = visible(self.headline())
        return f"<{type(self).__name__}{': ' if line else ''}{line}>"

    def _repr_html_(self) -> str:
        rows = [(name, value) for name, value in self.facts() if value not in (None, "", [], {})]
        listed = ResultTable(columns=("", ""), rows=rows).html() if rows else ""
        tables = "".join(table.html() for table in self.tables())
        mark = "✓" if self.ok else "✗"
        line = f"<p>{mark} {html_text(self.headline())}</p>"
        return f"<div>{line}{listed}{self.chart()}{tables}</div>"


def _text(value: object) -> str:
    return "–" if value is None else str(value)
