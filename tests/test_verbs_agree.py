"""Every command is a Python function, which takes whatever the command takes."""

from __future__ import annotations

import inspect

import click
import pytest

import kanna
from kanna.cli.main import cli

CONTEXT = click.Context(cli)
COMMANDS = cli.list_commands(CONTEXT)
GROUPS = {
    name: one for name in COMMANDS if isinstance(one := cli.get_command(CONTEXT, name), click.Group)
}
IN_GROUPS = [(name, one) for name, group in GROUPS.items() for one in group.commands]
TOGETHER = {
    "server": {"server", "key_file", "ca_file", "insecure_http"},
    "listener": {"host", "port", "tls_cert", "tls_key", "insecure_http"},
}
"""Options that are one parameter of the functions of a fleet, by its name."""
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


@pytest.mark.parametrize("name", [n for n in COMMANDS if n not in NO_FUNCTION | GROUPS.keys()])
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


@pytest.mark.parametrize(("group", "name"), IN_GROUPS)
def test_a_package_has_what_its_group_has(group: str, name: str) -> None:
    function = getattr(getattr(kanna, group), name.replace("-", "_"))
    parameters = inspect.signature(function).parameters
    together = {option for name in TOGETHER.keys() & parameters for option in TOGETHER[name]}
    missing = [
        option.name
        for option in GROUPS[group].commands[name].params
        if option.name not in OF_TERMINALS | together and option.name not in parameters
    ]
    assert not missing


def test_the_exceptions_are_needed() -> None:
    for name, option in {**OTHER_NAMES, **ELSEWHERE}:
        command = cli.get_command(CONTEXT, name)
        assert command is not None and option in [one.name for one in command.params]
        assert option not in inspect.signature(getattr(kanna, name)).parameters
    assert all(not hasattr(kanna, name) for name in NO_FUNCTION)
