"""Defaults of options from kanna.toml, in the working folder and among the user's settings."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from kanna._util.folders import SETTINGS, config_folder, settings_files
from kanna.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# A folder that came from elsewhere must not open a port, hand out keys or name a program to run.
_ONLY_OWN = {
    "ca_file",
    "cors_origin",
    "host",
    "insecure_http",
    "key",
    "key_file",
    "keys",
    "llama_server",
    "on_swap",
    "open_to_all",
    "self_test",
    "server",
    "sign_key",
    "state",
    "traces",
    "url",
    "yes",
}

_ONE_OF = (
    ("preset", "encoding", "plan"),
    ("imatrix", "statistics"),
    ("size", "bpw", "like", "memory"),
)
"""Options of which a command takes one."""


def defaults(group: click.Group, ctx: click.Context) -> dict[str, Any]:
    """Click's map of defaults for the command that is run; later files win.

    Raises:
        UsageError: A file is no TOML, or names a command or an option that there is not.
    """
    name = ctx.invoked_subcommand or ""
    command = group.get_command(ctx, name)
    if command is None:
        return {}
    merged: dict[str, Any] = {}
    for path in settings_files():
        for key, value in _read(path, name, command, group.list_commands(ctx)).items():
            if path.parent != config_folder() and key in _ONLY_OWN:
                raise UsageError(
                    f"{path} sets {key.replace('_', '-')} of {name}",
                    expected=f"that in {config_folder() / SETTINGS}, which only you write",
                )
            merged[key] = value
    return {name: merged}


def drop_contradicted(ctx: click.Context, values: dict[str, Any]) -> None:
    """Forget defaults of the user where the command line has another option of the same kind."""
    for kind in _ONE_OF:
        sources = {name: ctx.get_parameter_source(name) for name in kind if name in values}
        if ParameterSource.COMMANDLINE in sources.values():
            for name, source in sources.items():
                if source in (ParameterSource.DEFAULT_MAP, ParameterSource.ENVIRONMENT):
                    values[name] = None


def _read(path: Path, name: str, command: click.Command, commands: Sequence[str]) -> dict[str, Any]:
    """Values for a command; what stands outside the tables is for every command that has it."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UsageError(f"{path} cannot be read: {error}", expected="TOML") from None
    tables = {key: value for key, value in content.items() if isinstance(value, dict)}
    if unknown := [key for key in tables if key not in commands]:
        raise UsageError(f"{path} has a table [{unknown[0]}]", expected=", ".join(commands))
    options = _options(command)
    values: dict[str, Any] = {}
    for key, value in {**content, **tables.get(name, {})}.items():
        parameter = options.get(key)
        if parameter is not None and not isinstance(value, dict):
            several = parameter.multiple and not isinstance(value, list)
            values[str(parameter.name)] = [value] if several else value
        elif key not in content:
            raise UsageError(f"{path} sets {key} of {name}", expected=", ".join(sorted(options)))
    return values


def _options(command: click.Command) -> dict[str, click.Option]:
    """Options by their names as people write them, without dashes in front."""
    return {
        written.lstrip("-"): parameter
        for parameter in command.params
        if isinstance(parameter, click.Option)
        for written in parameter.opts
        if written.startswith("--")
    }
