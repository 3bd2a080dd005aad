"""`kanna completion show|install`: commands, options, presets and models completed by the shell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kanna.cli.options import command
from kanna.cli.shells import SHELLS

if TYPE_CHECKING:
    from kanna.cli.ui import Terminal


class Action(click.Choice[str]):
    """What to do; a shell in its place is one that lacks it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The action's name. Raises click.BadParameter with the command that was meant."""
        if value in SHELLS:
            self.fail(f"{value!r} comes second: kanna completion install {value}", param, ctx)
        return super().convert(value, param, ctx)


@command("completion")
@click.argument("action", type=Action(["install", "show", "man"]))
@click.argument("shell", type=click.Choice(SHELLS), required=False)
def completion_command(terminal: Terminal, action: str, shell: str | None) -> None:
    """Complete commands, options, presets and models in bash, zsh or fish.

    `install` puts the script, and the manual page, where your shell and `man` look for them; `show`
    prints the script, `man` the manual page. Without a SHELL it is the one you use.
    """
    from kanna import __version__
    from kanna.cli import shells
    from kanna.cli.man import man_page

    group = click.get_current_context().find_root().command
    assert isinstance(group, click.Group)
    if action == "man":
        click.echo(man_page(group, __version__), nl=False)
        return
    chosen = shell or shells.current()
    text = shells.script(group, chosen)
    if action == "show":
        click.echo(text)
        return
    script, manual = shells.place(chosen), shells.data_folder() / "man" / "man1" / "kanna.1"
    for path, content in ((script, text), (manual, man_page(group, __version__))):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    terminal.result(
        {"shell": chosen, "script": str(script), "manual": str(manual)},
        lambda screen, data: screen.print(data["script"], soft_wrap=True),
    )
    after = {
        "zsh": f"Add to ~/.zshrc, before compinit: fpath=({script.parent} $fpath)",
        "bash": "Open a new shell. It needs the package bash-completion; without it, add to "
        f"~/.bashrc: source {script}",
        "fish": "Open a new shell.",
    }
    terminal.done(after[chosen])


COMMAND = completion_command
