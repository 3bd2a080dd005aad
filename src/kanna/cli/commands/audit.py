"""`kanna audit MODEL`: source, plan, gate, signature and licence of an artefact."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kanna.cli import options
from kanna.cli.options import command

if TYPE_CHECKING:
    from rich.console import Console

    from kanna.cli.ui import Terminal

EXIT = {"complete": 0, "broken": 1, "incomplete": 3}


@command("audit")
@click.argument("artefact", metavar="MODEL", type=options.MODEL)
@click.option("--source", type=options.MODEL, help="What it was made from, to compare its hashes.")
@click.option(
    "--gate",
    type=options.FILE,
    help="The report that `kanna verify --gate` wrote. [default: MODEL.gate.json]",
)
@click.option("--key", type=options.FILE, help="Public key of who must have signed the package.")
@click.option(
    "--allow", type=options.NAMES, help="Licences that are allowed: apache-2.0,mit. [default: any]"
)
@options.offline
def audit_command(terminal: Terminal, artefact: str, **choices: Any) -> None:
    """Check what is known of MODEL: source, plan, gate, signature, licence.

    Nothing is run: every link is held against the files as they are.

    Exit code 0: every link holds. 1: one does not. 3: one is missing.
    """
    from kanna.auditing import audit

    result = audit(artefact, progress=terminal.progress(), **choices)
    terminal.result(result, _draw)
    click.get_current_context().exit(EXIT[result.status])


def _draw(screen: Console, data: dict[str, Any]) -> None:
    from kanna.cli.ui import checks

    screen.print(checks("link", data["checks"]))
    screen.print(data["status"])


COMMAND = audit_command
