"""Write docs/components.md, man/kanna.1 and docs/recipe.schema.json from the code.

`python tools/components.py` does it; tests compare all three with it.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

from kanna import __version__
from kanna.catalog import Component, ComponentOption, Listing, components
from kanna.cli.main import cli
from kanna.cli.man import man_page
from kanna.recipes import recipe

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "components.md"
MANUAL = ROOT / "man" / "kanna.1"
SCHEMA = ROOT / "docs" / "recipe.schema.json"
HEAD = """\
# Components

Whatever recipes, plans and options can name. `kanna components` lists the same, and says what of it
is available on your machine: see [the command](commands/components.md).

This page is made from the code by `make docs`: names are those of files, descriptions those of
docstrings, options and defaults those of signatures and fields.
"""
_LIST = 12
"""Facts that are longer lists are left to `kanna components KIND NAME`."""


def page() -> str:
    """The text of docs/components.md."""
    listed = components()
    parts = [HEAD, f"{listed.count} components of {len(listed.kinds)} kinds.\n"]
    return "\n".join([*parts, *(_kind(k) for k in listed.kinds)])


def _kind(kind: Listing) -> str:
    lines = [f"## {kind.kind.capitalize()}", "", _wrapped(kind.about), ""]
    extras = any(c.extra for c in kind.components)
    facts = any(_facts(c) for c in kind.components)
    heads = ["name", "what", *(["extra"] if extras else []), *(["facts"] if facts else [])]
    lines += [_row(heads), _row(["---"] * len(heads))]
    for component in kind.components:
        cells = [f"`{component.name}`", _cell(component.summary)]
        cells += [_extra(component)] if extras else []
        lines.append(_row(cells + ([_cell(_facts(component))] if facts else [])))
    lines.append("")
    for options, names in _shared(kind.components):
        everyone = len(names) == len(kind.components) > 1
        owners = "all of them" if everyone else ", ".join(f"`{n}`" for n in names)
        lines += [_wrapped(f"Options of {owners}:"), ""]
        lines += [_row(["option", "type", "default", "what"]), _row(["---"] * 4)]
        lines += [_option(option) for option in options]
        lines.append("")
    return "\n".join(lines)


def _option(option: ComponentOption) -> str:
    if option.required:
        default = "required"
    else:
        default = "none" if option.default in (None, "", []) else f"`{option.default}`"
    kind = _cell(f"`{option.type}`" if option.type else "")
    return _row([f"`{option.name}`", kind, _cell(default), _cell(option.about)])


def _shared(listed: list[Component]) -> list[tuple[list[ComponentOption], list[str]]]:
    """Options, and the components that have just these."""
    by_options: list[tuple[list[ComponentOption], list[str]]] = []
    for component in listed:
        if not component.options:
            continue
        same = next((names for options, names in by_options if options == component.options), None)
        if same is None:
            by_options.append((component.options, [component.name]))
        else:
            same.append(component.name)
    return by_options


def _extra(component: Component) -> str:
    return component.extra + (f", for {component.extra_for}" if component.extra_for else "")


def _facts(component: Component) -> str:
    facts: list[str] = []
    for name, value in component.facts.items():
        if isinstance(value, (list, tuple)):
            if not value or len(value) > _LIST:
                continue
            value = ", ".join(map(str, value))
        if value is True:
            facts.append(name)
        elif value is not False and value not in (None, ""):
            facts.append(f"{name}: {value}")
    return "; ".join(facts)


def _wrapped(text: str) -> str:
    """Paragraphs and lists at 100 columns."""
    lines = text.splitlines()
    return "\n".join(
        textwrap.fill(line, 100, break_long_words=False, break_on_hyphens=False)
        if len(line) > 100
        else line
        for line in lines
    )


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    MANUAL.write_text(man_page(cli, __version__), encoding="utf-8")
    SCHEMA.write_text(recipe("schema").text, encoding="utf-8")
