"""Output that is narrow, closed or without colours: lines may lose signs, no command fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("transformers")
from helpers import tiny_models  # noqa: E402

KANNA = [sys.executable, "-m", "kanna"]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "tiny"
    tiny_models.make("llama", folder)
    return folder


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[bytes]:
    command = [*KANNA, *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, env={**os.environ, **environment}, timeout=120, check=False
    )


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "cp437"])
def test_a_narrow_encoding_loses_signs_alone(encoding: str, source: Path) -> None:
    done = run("fit", source, PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    text = done.stdout.decode(encoding)
    assert "Q4_K_M" in text and "tokens" in text


def test_json_is_whole_in_a_narrow_encoding(source: Path, tmp_path: Path) -> None:
    named = tmp_path / "mödel–1"
    named.symlink_to(source)
    done = run("inspect", "--json", named, PYTHONIOENCODING="ascii", PYTHONUTF8="1")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["name"] == "mödel–1"


def test_help_and_errors_in_the_c_locale(tmp_path: Path) -> None:
    plain = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    assert run("fit", "--help", **plain).returncode == 0
    done = run("fit", tmp_path / "nö–thing", **plain)
    assert done.returncode == 2 and b"Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [("fit",), ("inspect",), ("fit", "--json"), ("--help",)])
@pytest.mark.skipif(os.name != "posix", reason="pipes of POSIX")
def test_a_reader_that_left_is_no_failure(arguments: tuple[str, ...], source: Path) -> None:
    first, last = os.pipe()
    os.close(first)
    command = [*KANNA, *arguments, *([] if "--help" in arguments else [str(source)])]
    done = subprocess.run(command, stdout=last, stderr=subprocess.PIPE, timeout=120, check=False)
    os.close(last)
    assert done.returncode == 0 and not done.stderr, done.stderr


def test_fit_fails_where_nothing_fits(source: Path) -> None:
    done = run("fit", source, "--memory", "1kB")
    assert done.returncode == 1 and b"Q4_K_M" in done.stdout
    assert run("fit", source, "--memory", "2").returncode == 2


@pytest.mark.parametrize("columns", ["1", "24"])
def test_a_narrow_terminal_folds(columns: str, source: Path) -> None:
    assert run("fit", source, COLUMNS=columns).returncode == 0
