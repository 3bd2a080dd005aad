"""`kanna agent`: keep a device at the model that its fleet wants."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kanna.cli import options
from kanna.cli.options import command

if TYPE_CHECKING:
    from rich.console import Console

    from kanna.cli.ui import Terminal


@command("agent", when_interrupted="Stopped.")
@click.option(
    "--state",
    type=options.FILE,
    required=True,
    help="Folder of the versions; `current` in it is the one to serve.",
)
@click.option("--server", required=True, metavar="URL", help="Address of the fleet's server.")
@click.option(
    "--key-file", type=options.FILE, help="Key of this device. [default: $KANNA_FLEET_KEY]"
)
@click.option(
    "--ca-file", type=options.FILE, help="Certificates for HTTPS, in PEM. [default: the system's]"
)
@click.option(
    "--insecure-http", is_flag=True, help="Talk plain HTTP to other machines than this one, too."
)
@click.option("--key", type=options.FILE, help="Public key of who must have signed every version.")
@click.option(
    "--self-test",
    default="",
    metavar="COMMAND",
    help="Tests the folder of a version, its last argument: exit code 0 passed, 3 cannot be "
    "tested here, else failed. [default: what it brings along, with llama-server or kanna]",
)
@click.option(
    "--llama-server", help="llama.cpp's server for the self-test. [default: that on the PATH]"
)
@click.option("--least-speed", type=options.NUMBER, help="Tokens per second it must generate.")
@click.option(
    "--test-limit",
    type=options.POSITIVE,
    default=600.0,
    show_default=True,
    help="Seconds a self-test may take.",
)
@click.option(
    "--on-swap",
    default="",
    metavar="COMMAND",
    help="Run when another version is current, such as to restart a service; where it fails, the "
    "version before is current again.",
)
@click.option("--once", is_flag=True, help="Ask once, follow that, and end.")
def agent_command(terminal: Terminal, state: Path, server: str, **choices: Any) -> None:
    """Keep this device at the model that its fleet wants, until Ctrl-C.

    What comes is checked, tested, and only then current; what fails leaves the version before.

    Exit code with --once: 0 all is as it should be, 1 it is not.
    """
    from kanna.fleet.device.polling import agent

    result = agent(state, server=server, remark=terminal.note, **choices)
    terminal.result(result, _draw)
    click.get_current_context().exit(0 if result.ok else 1)


def _draw(screen: Console, data: dict[str, Any]) -> None:
    why = f": {data['detail']}" if data["detail"] else ""
    screen.print(f"{data['outcome']}{why}", markup=False, soft_wrap=True)
    screen.print(data["model"] or "no model yet", markup=False, soft_wrap=True)


COMMAND = agent_command
