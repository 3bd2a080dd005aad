"""The manual page, made from the commands themselves."""

from __future__ import annotations

import click

_HELP = ("-h, --help", "Show this message and exit.")


def man_page(group: click.Group, version: str) -> str:
    """The page `kanna(1)` in troff, with every command and its options."""
    ctx = click.Context(group, info_name="kanna", **group.context_settings)
    lines = [
        f'.TH KANNA 1 "" "kanna {version}" "User Commands"',
        ".SH NAME",
        f"kanna \\- {_text((group.help or '').splitlines()[0])}",
        ".SH SYNOPSIS",
        ".B kanna",
        "COMMAND [OPTIONS] [ARGUMENTS]",
        ".SH DESCRIPTION",
        _text(group.epilog or ""),
        ".SH COMMANDS",
    ]
    for name in group.list_commands(ctx):
        command = group.get_command(ctx, name)
        if command is not None and not command.hidden:
            lines += _command(click.Context(command, info_name=name, parent=ctx), command)
    lines += [
        ".SH FILES",
        _text(
            "./kanna.toml, ~/.config/kanna/kanna.toml: defaults of options, a table per command."
        ),
        ".SH ENVIRONMENT",
        "KANNA_COMMAND_OPTION sets an option of a command, such as KANNA_CONVERT_PRESET.",
    ]
    return "\n".join(lines) + "\n"


def _command(ctx: click.Context, command: click.Command) -> list[str]:
    usage = " ".join(command.collect_usage_pieces(ctx))
    lines = [f".SS {_text(f'{ctx.command_path} {usage}')}"]
    for paragraph in (command.help or "").split("\n\n"):
        lines += [_text(" ".join(paragraph.split())), ".PP"]
    # Without click's own option for help, which it keeps from whatever context asked first.
    records = [parameter.get_help_record(ctx) for parameter in command.params]
    for record in (*records, _HELP):
        if record is not None:
            lines += [".TP", f"\\fB{_text(record[0])}\\fR", _text(record[1]) or "\\&"]
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            lines += _command(click.Context(inner, info_name=name, parent=ctx), inner)
    return lines


def _text(text: str) -> str:
    """A text in which troff finds no request and no escape."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return "\n".join(f"\\&{line}" if line[:1] in ".'" else line for line in escaped.split("\n"))
