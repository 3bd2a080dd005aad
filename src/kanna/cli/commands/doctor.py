"""`kanna doctor`: this machine and its runtimes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kanna.cli.options import command

if TYPE_CHECKING:
    from rich.console import Console

    from kanna.cli.ui import Terminal


@command("doctor")
def doctor_command(terminal: Terminal) -> None:
    """Show this machine, its runtimes, and what to install for more.

    CPU and its vector instructions, memory, disks, GPUs and accelerators; which build of llama.cpp
    is in use, whether it was compiled for this machine, and the commands that would add what is
    missing.
    """
    from kanna.diagnosis import doctor

    terminal.result(doctor(), _draw)


def _draw(screen: Console, data: dict[str, Any]) -> None:
    from kanna.cli.ui import facts

    for section in data["sections"]:
        screen.print(f"\n{section['title']}", style="bold cyan")
        facts(screen, [(f"  {name}", value) for name, value in section["facts"]])
    if data["advice"]:
        screen.print("\nFor more", style="bold cyan")
        for item in data["advice"]:
            screen.print(f"  {item['why']}")
            if item["command"]:
                screen.print(f"    {item['command']}", style="green", soft_wrap=True)
    else:
        screen.print("\nNothing is missing.", style="green")


COMMAND = doctor_command
