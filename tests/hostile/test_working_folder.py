"""Whoever stands in a folder that was downloaded runs no Python of it: no child imports from it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import kanna
from kanna._util import interpreter
from kanna._util.processes import environment
from kanna.chat_templates import pool
from kanna.serving import launch

_SOURCE = Path(kanna.__file__).parent
# What every program of Python imports early, and what kanna's children import.
_NAMES = ("json", "kanna", "runpy", "signal", "numpy", "jinja2", "psutil", "pip", "pickle", "click")


@pytest.fixture
def marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that a module of the working folder writes to when it is imported."""
    imported = tmp_path / "imported"
    folder = tmp_path / "model"
    folder.mkdir()
    for name in _NAMES:
        line = f"with open({str(imported)!r}, 'a') as marks: marks.write('{name} ')\n"
        (folder / f"{name}.py").write_text(f"{line}raise ImportError('{name} of a stranger')\n")
    monkeypatch.chdir(folder)
    return imported


@pytest.mark.parametrize("oldest", [False, True])
def test_a_module_of_ours_is_run_from_where_kanna_is(
    marks: Path, monkeypatch: pytest.MonkeyPatch, oldest: bool
) -> None:
    """Python 3.10 has no option for it."""
    if oldest:
        monkeypatch.setattr(interpreter, "_SAFE_PATH", (99,))
    command = interpreter.module_command("kanna", "--version")
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert kanna.__version__ in done.stdout
    assert not marks.exists()


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 has no such variable")
@pytest.mark.parametrize("variables", [environment, launch.environment])
def test_what_a_child_starts_imports_nothing_from_there_either(
    marks: Path, variables: Callable[[], dict[str, str]]
) -> None:
    subprocess.run([sys.executable, "-c", "import json"], env=variables(), check=True)
    assert not marks.exists()


def test_the_process_that_renders_templates_starts_in_a_hostile_folder(marks: Path) -> None:
    pool.RenderProcess().kill()
    assert not marks.exists()


def test_python_m_kanna_leaves_the_working_folder_out(marks: Path) -> None:
    (Path.cwd() / "kanna.py").unlink()  # what Python itself takes before anything of ours runs
    command = [sys.executable, "-m", "kanna", "--version"]
    done = subprocess.run(
        command,
        env=environment() | {"PYTHONSAFEPATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "click" not in (marks.read_text() if marks.exists() else "")


def test_every_child_of_python_is_started_by_the_one_function() -> None:
    named = {
        path.relative_to(_SOURCE).as_posix()
        for path in _SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, (ast.List, ast.Tuple, ast.Call))
        for part in (node.args if isinstance(node, ast.Call) else node.elts)
        if isinstance(part, ast.Attribute) and ast.unparse(part) == "sys.executable"
    }
    assert named == {"_util/interpreter.py"}
