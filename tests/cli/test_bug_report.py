"""What a report of a fault holds, and what it leaves out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import kanna
from kanna import __version__
from kanna._util.last_error import FILE, redacted
from kanna.cli.main import cli
from kanna.errors import OutputError

SECRETS = (
    "kanna-0a1b2c3d-Zm9vYmFyYmF6cXV4",
    "hf_abcdefghijklmnop",
    "ghp_abcdefghijklmnopqrst",
    "hunter22",
)
TOLD = (
    f"the key {SECRETS[0]}, {SECRETS[1]}, {SECRETS[2]}, https://me:{SECRETS[3]}@host/x, "
    f"password={SECRETS[3]}, Authorization: Bearer {SECRETS[1]}"
)


def invoke(*words: object) -> Any:
    return CliRunner().invoke(cli, [str(w) for w in words])


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KANNA_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("KANNA_CONFIG", str(tmp_path / "config"))
    return tmp_path


def test_the_last_error_is_reported_without_secrets(home: Path) -> None:
    assert invoke("inspect", home / TOLD.replace("/", "")).exit_code == 2
    kept = (home / "state" / FILE).read_text()
    report = json.loads(invoke("bug-report", "--json").stdout)
    assert report["versions"]["kanna"] == __version__
    assert report["last_error"]["command"] == "inspect" and report["doctor"]["Machine"]
    text = invoke("bug-report").stdout
    assert {"## What happened", "## Last error"} <= set(text.splitlines())
    assert "does not exist" in text
    for secret in SECRETS:
        assert secret not in kept + json.dumps(report) + text


def test_a_report_is_written_once(home: Path) -> None:
    out = home / "report.md"
    assert invoke("bug-report", "-o", out).exit_code == 0
    assert "none is kept" in out.read_text() and __version__ in out.read_text()
    run = invoke("bug-report", "-o", out)
    assert run.exit_code == 1 and "exists" in run.stderr


def test_secrets_and_the_home_folder_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    text = redacted(f"{TOLD} /home/somebody/models")
    assert not [secret for secret in SECRETS if secret in text]
    assert "somebody" not in text and "~/models" in text


def test_the_command_has_one_name() -> None:
    assert invoke("bug-report", "--help").exit_code == 0
    assert invoke("bug_report", "--help").exit_code == 2


def test_the_function_gives_what_the_command_prints(home: Path) -> None:
    assert invoke("inspect", home / "absent").exit_code == 2
    report = kanna.bug_report(out=home / "report.md")
    assert report.text == (home / "report.md").read_text()
    assert report.last_error is not None and "absent" in repr(report)
    assert set(report.to_dict()) == set(json.loads(invoke("bug-report", "--json").stdout))
    with pytest.raises(OutputError, match="cannot be written"):
        kanna.bug_report(out=home / "absent" / "report.md")
