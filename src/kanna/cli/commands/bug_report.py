"""`kanna bug-report`: what a report of a fault needs, as text to paste."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from kanna.cli import options
from kanna.cli.options import command

if TYPE_CHECKING:
    from kanna.cli.ui import Terminal


@command("bug-report")
@click.option("-o", "--output", "out", type=options.FILE, help="File to write. [default: print it]")
def bug_report_command(terminal: Terminal, out: Path | None) -> None:
    """Write what a report of a fault needs: versions, hardware, runtimes, the last error.

    Keys, tokens and the path of your home folder are left out; nothing is sent anywhere. Read it
    before you pass it on.
    """
    from rich.text import Text

    from kanna.fault_report import bug_report

    report = bug_report(out=out)
    if out is not None:
        terminal.done(f"Wrote {out}: read it before you pass it on.")
        if not terminal.settings.json:
            return
    terminal.result(
        report, lambda screen, _: screen.print(Text(report.text), end="", soft_wrap=True)
    )


COMMAND = bug_report_command
