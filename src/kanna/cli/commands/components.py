"""`kanna components`: what recipes, plans and options can name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kanna.cli.options import command

if TYPE_CHECKING:
    from rich.console import Console

    from kanna.cli.ui import Terminal


@command("components")
@click.argument("kind", required=False)
@click.argument("name", required=False)
def components_command(terminal: Terminal, kind: str | None, name: str | None) -> None:
    """List what recipes, plans and options can name.

    Encodings, methods, formats, presets, runtimes and more.

    KIND lists the components of one kind, and a NAME after it shows one in full, with its options
    and their defaults. A NAME alone is looked for in every kind. Nothing is loaded to tell what is
    available here.
    """
    from kanna.catalog import components

    terminal.result(components(kind, name), _draw)


def _draw(screen: Console, data: dict[str, Any]) -> None:
    if data["whole"]:
        for kind in data["kinds"]:
            for one in kind["components"]:
                _draw_one(screen, one)
    elif len(data["kinds"]) == 1:
        _draw_kind(screen, data["kinds"][0])
    else:
        _draw_kinds(screen, data)


def _draw_kinds(screen: Console, data: dict[str, Any]) -> None:
    from rich.text import Text

    from kanna.cli.ui import table

    made = table("kind", "number>", "here>", "what")
    for kind in data["kinds"]:
        here = sum(c["available"] for c in kind["components"])
        made.add_row(
            kind["kind"],
            str(len(kind["components"])),
            str(here),
            Text(_after_colon(kind["summary"])),
        )
    screen.print(made)
    screen.print(
        f"{data['count']} components. `kanna components KIND` lists those of a kind, "
        "`kanna components KIND NAME` shows one in full.",
        markup=False,
    )


def _draw_kind(screen: Console, kind: dict[str, Any]) -> None:
    from rich.text import Text

    from kanna.cli.ui import table

    screen.print(" ".join(kind["about"].split()), style="bold cyan")
    made = table("name", "extra", "here", "what")
    for one in kind["components"]:
        style = None if one["available"] else "dim"
        made.add_row(one["name"], one["extra"], _here(one), Text(one["summary"]), style=style)
    screen.print(made)
    for install in sorted({c["install"] for c in kind["components"] if c["install"]}):
        screen.print(f"To have more: {install}", style="green")


def _here(one: dict[str, Any]) -> str:
    if one["available"]:
        return "yes"
    return f"without {one['extra_for']}" if one["extra_for"] else "no"


def _draw_one(screen: Console, one: dict[str, Any]) -> None:
    from rich.text import Text

    from kanna.cli.ui import facts, table

    screen.print(f"{one['kind']}: {one['name']}", style="bold cyan")
    for paragraph in (one["about"] or one["summary"]).split("\n\n"):
        screen.print(Text(paragraph))
    properties = [(_sentence(name), _value(value)) for name, value in one["facts"].items()]
    lacks = (
        f"no: {', '.join(one['missing'])} not installed; {one['install']}"
        if one["missing"]
        else "yes"
    )
    wanted = one["extra"] + (f", for {one['extra_for']}" if one["extra_for"] else "")
    facts(
        screen,
        [
            *properties,
            ("Extra", wanted or "none"),
            ("Available here", lacks),
            ("Defined in", one["where"]),
        ],
    )
    if one["options"]:
        made = table("option", "type", "default", "what")
        for option in one["options"]:
            default = "required" if option["required"] else _value(option["default"])
            made.add_row(option["name"], Text(option["type"]), Text(default), Text(option["about"]))
        screen.print(made)


def _sentence(name: str) -> str:
    return name[:1].upper() + name[1:]


def _value(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return f"{value:,}" if isinstance(value, int) else str(value)


def _after_colon(summary: str) -> str:
    """`Encodings: how values are stored` beside the name of the kind."""
    return summary.partition(": ")[2] or summary


COMMAND = components_command
