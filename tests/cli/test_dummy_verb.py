"""A verb of another distribution: an entry point makes it a command, with no edit in `src/`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.plugging import install

VERB = '''
import click

from kanna.cli.options import command


@command("greet")
@click.argument("name")
@click.option("--loud", is_flag=True, help="In capitals.")
def greet(terminal, name, loud):
    """Greet NAME from another distribution."""
    text = f"hello, {name}"
    text = text.upper() if loud else text
    terminal.result({"text": text}, lambda screen, data: screen.print(data["text"]))
'''


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder that holds an installed distribution with one command."""
    install(tmp_path, "kanna.cli.commands", "greet", VERB, "greet")
    return tmp_path


def kanna(folder: Path, *words: str) -> str:
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH", ""))))
    run = subprocess.run(
        [sys.executable, "-m", "kanna", *words],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    return run.stdout


def test_a_foreign_verb_is_in_the_help_and_runs(installed: Path) -> None:
    assert "Greet NAME from another distribution." in kanna(installed, "--help")
    assert "--loud" in kanna(installed, "greet", "--help")
    assert kanna(installed, "greet", "world", "--loud").strip() == "HELLO, WORLD"
    assert kanna(installed, "greet", "world", "--json").split() == [
        "{", '"text":', '"hello,', 'world"', "}",
    ]  # fmt: skip
