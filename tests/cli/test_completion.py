"""What shells complete, the scripts for them, and the manual page."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from kanna.cli.main import cli
from kanna.cli.shells import SHELLS


def completed(*words: str) -> list[str]:
    *args, incomplete = words
    shell = ShellComplete(cli, {}, "kanna", "_KANNA_COMPLETE")
    return [item.value for item in shell.get_completions(args, incomplete)]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("conv",), "convert"),
        (("convert", "--pre"), "--preset"),
        (("convert", "--preset", "q4_k_m"), "Q4_K_M"),
        (("convert", "--preset", "mlx:q"), "mlx:q4"),
        (("compare", "--presets", "Q8_0,Q4_K_"), "Q8_0,Q4_K_M"),
        (("optimize", "--like", "q4_k_m"), "Q4_K_M"),
        (("fit", "--format", "on"), "onnx"),
        (("inspect", "builtin:smol"), "builtin:smollm2-135m"),
        (("verify", "x", "builtin:smol"), "builtin:smollm2-135m"),
        (("keys", "rev"), "revoke"),
    ],
)
def test_names_are_completed(words: tuple[str, ...], expected: str) -> None:
    assert expected in completed(*words)


def invoke(*words: str, **environment: str) -> Any:
    return CliRunner().invoke(cli, list(words), env=environment)


@pytest.mark.parametrize("shell", SHELLS)
def test_scripts_are_installed(shell: str, tmp_path: Path) -> None:
    folders = {"XDG_DATA_HOME": str(tmp_path / "data"), "XDG_CONFIG_HOME": str(tmp_path / "config")}
    run = invoke("completion", "install", "--json", SHELL=f"/bin/{shell}", **folders)
    assert run.exit_code == 0, run.output
    done = json.loads(run.stdout)
    script = Path(done["script"])
    assert "_KANNA_COMPLETE" in script.read_text() and script.is_relative_to(tmp_path)
    assert Path(done["manual"]).read_text().startswith(".TH KANNA 1")
    assert invoke("completion", "show", shell).stdout.strip() == script.read_text().strip()
    if program := shutil.which(shell):
        subprocess.run([program, "-n", str(script)], check=True)


def test_another_shell_is_told() -> None:
    run = invoke("completion", "install", SHELL="/bin/tcsh")
    assert run.exit_code == 2 and "bash, zsh, fish" in run.stderr


def test_the_manual_has_every_command() -> None:
    page = invoke("completion", "man").stdout
    for name in cli.list_commands(click.Context(cli)):
        assert f"kanna {name}".replace("-", "\\-") in page
    assert "\\-\\-split\\-max\\-size" in page
    if program := shutil.which("mandoc"):
        subprocess.run([program, "-T", "lint", "-W", "error"], input=page, text=True, check=True)


def test_the_manual_that_is_installed_is_current() -> None:
    written = Path(__file__).parents[2] / "man" / "kanna.1"
    current = CliRunner().invoke(cli, ["completion", "man"]).stdout
    assert written.read_text(encoding="utf-8") == current, "python tools/components.py"
