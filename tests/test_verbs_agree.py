"""Every command is a Python function, which takes whatever the command takes."""

from __future__ import annotations

import inspect

import click
import pytest

import kanna
from kanna.cli.main import cli

CONTEXT = click.Context(cli)
COMMANDS = cli.list_commands(CONTEXT)
NO_FUNCTION = {"completion"}
"""It is about the shell."""
OF_TERMINALS = {"json", "quiet", "debug", "yes"}
"""How results and errors are shown, and whether a person is asked."""
OTHER_NAMES = {
    ("bench", "artefacts"): "paths",
    ("chat", "model"): "path",
    ("embed", "model"): "path",
    ("generate", "model"): "path",
    ("inspect", "with_hash"): "hash",
    ("optimize", "rule"): "rules",
}
ELSEWHERE = {
    ("inspect", "tensors"): "the result has all of them, the command shows them when asked",
    ("package", "check"): "kanna.packaging.check",
    ("package", "key"): "kanna.packaging.check",
}


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in NO_FUNCTION])
def test_a_function_takes_what_its_command_takes(name: str) -> None:
    command = cli.get_command(CONTEXT, name)
    assert command is not None
    parameters = inspect.signature(getattr(kanna, name.replace("-", "_"))).parameters
    missing = [
        option.name
        for option in command.params
        if option.name not in OF_TERMINALS
        and (name, option.name) not in ELSEWHERE
        and OTHER_NAMES.get((name, str(option.name)), option.name) not in parameters
    ]
    assert not missing


def test_the_exceptions_are_needed() -> None:
    for name, option in {**OTHER_NAMES, **ELSEWHERE}:
        command = cli.get_command(CONTEXT, name)
        assert command is not None and option in [one.name for one in command.params]
        assert option not in inspect.signature(getattr(kanna, name)).parameters
    assert all(not hasattr(kanna, name) for name in NO_FUNCTION)
