"""`kanna selftest MODEL`: whether an artefact still is and answers what it did."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kanna.cli import options
from kanna.cli.options import command

if TYPE_CHECKING:
    from rich.console import Console

    from kanna.cli.ui import Terminal


@command("selftest")
@click.argument("artefact", metavar="MODEL", type=options.MODEL)
@click.option(
    "--expected",
    type=options.FILE,
    help="The expectations. [default: selftest.json of a package, or MODEL.selftest.json]",
)
@click.option("--write", is_flag=True, help="Write the expectations from what it answers here.")
@click.option("--key", type=options.FILE, help="Public key of who must have signed the package.")
@click.option("--least-speed", type=options.NUMBER, help="Tokens per second that it must generate.")
@click.option("--most-memory", type=options.SIZE, help="Memory it may take, such as 2GB.")
@options.threads
@options.offline
def selftest_command(
    terminal: Terminal, artefact: str, threads: int | None, **choices: Any
) -> None:
    """Check on a device that MODEL is, and answers, what it did where it was checked.

    Hashes, the signature of a package, loading, chat template, tokens and log probabilities, speed
    and memory.

    Exit code 0: passed. 1: a check failed. 3: it cannot be run here.
    """
    from kanna.self_testing import selftest

    result = selftest(
        artefact, threads=terminal.threads(threads), progress=terminal.progress(), **choices
    )
    terminal.result(result, _draw)
    click.get_current_context().exit(0 if result.ok else 1)


def _draw(screen: Console, data: dict[str, Any]) -> None:
    from kanna.cli.ui import checks

    if data["status"] == "written":
        screen.print(data["expected"], soft_wrap=True)
        return
    screen.print(checks("check", data["checks"]))
    screen.print(f"{data['status']} in {data['seconds']:.1f} s")


COMMAND = selftest_command
