"""`kanna keys create|list|revoke`: API keys of the gateway."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from kanna.cli import options
from kanna.cli.options import command

if TYPE_CHECKING:
    from rich.console import Console

    from kanna.cli.ui import Terminal


@command("keys")
@click.argument("action", type=click.Choice(["create", "list", "revoke"]))
@click.argument("which", required=False, metavar="[ID|NAME]")
@click.option("--name", help="Who the key is for.")
@click.option(
    "--scope", "scopes", multiple=True, help="infer, metrics or admin; repeatable. [default: infer]"
)
@click.option(
    "--model", "models", multiple=True, help="A model the key may use; repeatable. [default: all]"
)
@click.option(
    "--days",
    type=options.POSITIVE,
    help="Days until it expires. [default: never]",
)
@click.option("--requests-per-minute", type=click.IntRange(1), help="Most requests in a minute.")
@click.option(
    "--tokens-per-minute",
    type=click.IntRange(1),
    help="Max tokens in a minute, read and generated.",
)
@click.option("--tokens-per-day", type=click.IntRange(1), help="Max tokens in a day (UTC).")
@click.option(
    "--state",
    type=options.FILE,
    help="Folder of keys and usage. [default: $KANNA_STATE, ~/.local/state/kanna]",
)
def keys_command(
    terminal: Terminal,
    action: str,
    which: str | None,
    **choices: Any,
) -> None:
    """Make, list and revoke API keys. A running gateway knows of it at once.

    Only a hash is stored: the text of a key is shown once, when it is made.
    """
    from kanna.serving.key_management import keys

    draw = {"create": _draw_new, "revoke": _draw_revoked, "list": _draw_list}[action]
    terminal.result(keys(action, which, **choices), draw)
    if action == "create" and not terminal.settings.json:
        terminal.note("Keep it now: it is not shown again.")


def _draw_new(screen: Console, data: dict[str, Any]) -> None:
    screen.print(data["key"], soft_wrap=True)


def _draw_revoked(screen: Console, data: dict[str, Any]) -> None:
    for key in data["revoked"]:
        screen.print(f"Revoked {key['id']} ({key['name']})")


def _draw_list(screen: Console, data: dict[str, Any]) -> None:
    from kanna.cli.ui import table

    limit_columns = ("requests/min>", "tokens/min>", "tokens/day>")
    keys = table("id", "name", "scopes", "state", *limit_columns)
    now = time.time()
    for key in data["keys"]:
        expired = key["expires"] is not None and key["expires"] <= now
        state = "revoked" if key["revoked"] else "expired" if expired else "valid"
        limits = [
            str(key[n] or "")
            for n in ("requests_per_minute", "tokens_per_minute", "tokens_per_day")
        ]
        keys.add_row(key["id"], key["name"], ", ".join(key["scopes"]), state, *limits)
    screen.print(keys)


COMMAND = keys_command
