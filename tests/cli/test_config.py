"""Defaults from kanna.toml and from the environment: which wins, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from kanna.cli.main import cli


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder, and settings of the user in `settings`."""
    (tmp_path / "settings").mkdir()
    monkeypatch.setenv("KANNA_CONFIG", str(tmp_path / "settings"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def invoke(*words: object, **environment: str) -> Any:
    return CliRunner().invoke(cli, [str(w) for w in words], env=environment)


def context_of(gguf: Path, *words: str, **environment: str) -> int:
    run = invoke("fit", gguf, "--json", "--memory", "1GB", *words, **environment)
    assert run.exit_code == 0, run.output
    return json.loads(run.stdout)["context"]


def test_the_command_line_wins_then_the_environment_then_the_folder(
    home: Path, tiny_gguf: Path
) -> None:
    assert context_of(tiny_gguf) == 4096
    (home / "settings" / "kanna.toml").write_text("context = 100\n[fit]\ncontext = 200\n")
    assert context_of(tiny_gguf) == 200
    (home / "kanna.toml").write_text("[fit]\ncontext = 300\n")
    assert context_of(tiny_gguf) == 300
    assert context_of(tiny_gguf, KANNA_FIT_CONTEXT="400") == 400
    assert context_of(tiny_gguf, "--context", "500", KANNA_FIT_CONTEXT="400") == 500


def test_what_is_outside_tables_is_for_every_command_that_has_it(
    home: Path, tiny_gguf: Path
) -> None:
    (home / "kanna.toml").write_text('memory = "1GB"\njson = true\n[convert]\npreset = "Q8_0"\n')
    assert json.loads(invoke("fit", tiny_gguf).stdout)["memory"] == 10**9
    run = invoke("convert", tiny_gguf, "--dry-run")
    assert run.exit_code == 0 and json.loads(run.stdout)["preset"] == "Q8_0", run.output
    assert invoke("list").exit_code == 0


def test_the_command_line_replaces_options_of_the_same_kind(home: Path, tiny_gguf: Path) -> None:
    (home / "kanna.toml").write_text('[convert]\npreset = "Q8_0"\n')
    run = invoke("convert", tiny_gguf, "--dry-run", "--json", "--encoding", "q4_0")
    assert run.exit_code == 0 and "q4_0" in json.loads(run.stdout)["preset"].lower(), run.output


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[fit]\nmemroy = 1\n", ["kanna.toml sets memroy of fit", "memory"]),
        ("[fitt]\nmemory = 1\n", ["has a table [fitt]", "convert"]),
        ("fit = [", ["cannot be read", "TOML"]),
        ('[fit]\ncontext = "many"\n', ["'many' is not a valid integer"]),
    ],
)
def test_mistakes_are_told(text: str, words: list[str], home: Path, tiny_gguf: Path) -> None:
    (home / "kanna.toml").write_text(text)
    run = invoke("fit", tiny_gguf)
    assert run.exit_code == 2, run.output
    assert all(word in run.stderr for word in words), run.stderr


@pytest.mark.parametrize(
    "line", ['llama-server = "/tmp/x"', "open-to-all = true", 'host = "0.0.0.0"', "keys = false"]
)
def test_a_foreign_folder_opens_nothing(line: str, home: Path, tiny_gguf: Path) -> None:
    (home / "kanna.toml").write_text(f"[serve]\n{line}\n")
    run = invoke("serve", tiny_gguf)
    assert run.exit_code == 2 and "which only you write" in run.stderr, run.output
