"""Write docs/components.md from the code: `python tools/components.py`. A test compares the two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kanna.catalog import Component, Listing, components

PAGE = Path(__file__).parent.parent / "docs" / "components.md"
HEAD = """\
# Components

Whatever recipes, plans and options can name. `kanna components` lists the same, and says what of it is available on
your machine: see [the command](commands/components.md).

This page is made from the code by `make docs`: names are those of files, descriptions those of docstrings, options and
defaults those of signatures and fields.
"""
_LIST = 12
"""Facts that are longer lists are left to `kanna components KIND NAME`."""


def page() -> str:
    """The text of docs/components.md."""
    found = components()
    parts = [HEAD, f"{found.count} components of {len(found.kinds)} kinds.\n"]
    return "\n".join([*parts, *(_kind(k) for k in found.kinds)])


def _kind(kind: Listing) -> str:
    lines = [f"## {kind.kind.capitalize()}", "", kind.about, ""]
    extras = any(c.extra for c in kind.components)
    facts = any(_facts(c) for c in kind.components)
    heads = ["name", "what", *(["extra"] if extras else []), *(["facts"] if facts else [])]
    lines += [_row(heads), _row(["---"] * len(heads))]
    for one in kind.components:
        cells = [f"`{one.name}`", _cell(one.summary)]
        cells += [_extra(one)] if extras else []
        lines.append(_row(cells + ([_cell(_facts(one))] if facts else [])))
    lines.append("")
    for options, names in _shared(kind.components):
        said = (
            "all of them"
            if len(names) == len(kind.components) > 1
            else ", ".join(f"`{n}`" for n in names)
        )
        lines += [
            f"Options of {said}:",
            "",
            _row(["option", "type", "default", "what"]),
            _row(["---"] * 4),
        ]
        for o in options:
            default = (
                "required"
                if o.required
                else "none"
                if o.default in (None, "", [])
                else f"`{o.default}`"
            )
            lines.append(
                _row(
                    [
                        f"`{o.name}`",
                        _cell(f"`{o.type}`" if o.type else ""),
                        _cell(default),
                        _cell(o.about),
                    ]
                )
            )
        lines.append("")
    return "\n".join(lines)


def _shared(found: list[Component]) -> list[tuple[Any, list[str]]]:
    """Options, and the components that have just these."""
    by_options: list[tuple[Any, list[str]]] = []
    for one in found:
        if not one.options:
            continue
        same = next((names for options, names in by_options if options == one.options), None)
        if same is None:
            by_options.append((one.options, [one.name]))
        else:
            same.append(one.name)
    return by_options


def _extra(one: Component) -> str:
    return one.extra + (f", for {one.extra_for}" if one.extra_for else "")


def _facts(one: Component) -> str:
    told: list[str] = []
    for name, value in one.facts.items():
        if isinstance(value, (list, tuple)):
            if not value or len(value) > _LIST:
                continue
            value = ", ".join(map(str, value))
        if value is True:
            told.append(name)
        elif value is not False and value not in (None, ""):
            told.append(f"{name}: {value}")
    return "; ".join(told)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
