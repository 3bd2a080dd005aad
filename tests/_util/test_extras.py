"""Extras, and the Python that each of them needs."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from kanna._util import extras
from kanna._util.distribution import read_project

PROJECT = read_project(Path(__file__).parents[2])


def least_python(requirement: str) -> tuple[int, int]:
    """The oldest Python of the package that is installed here; 3.10 where none is."""
    try:
        facts = metadata(re.split(r"[^A-Za-z0-9._-]", requirement)[0])
        asked = str(facts.json.get("requires_python") or "")
    except PackageNotFoundError:
        asked = ""
    version = re.search(r">=\s*3\.(\d+)", asked)
    return (3, int(version[1])) if version else (3, 10)


@pytest.mark.parametrize("extra", extras.LEAST_PYTHON)
def test_the_python_an_extra_needs_is_that_of_its_packages(extra: str) -> None:
    needed = [least_python(line) for line in PROJECT["optional-dependencies"][extra]]
    assert max(needed) in {extras.LEAST_PYTHON[extra], (3, 10)}


@pytest.mark.parametrize("extra", ["onnx", "mlx", "llamacpp,onnx"])
def test_on_an_older_python_the_hint_says_what_is_needed(
    extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "sys", SimpleNamespace(version_info=(3, 10, 4)))
    assert "Python 3.11 or newer" in extras.command(extra)
    assert "Python" not in extras.command("llamacpp").partition("/")[0]
    monkeypatch.undo()
    assert extra in extras.command(extra)


def test_all_leaves_out_what_an_older_python_cannot_have() -> None:
    listed = PROJECT["optional-dependencies"]["all"]
    held_back = [line for line in listed if "python_version >= '3.11'" in line]
    assert all(name in "".join(held_back) for name in extras.LEAST_PYTHON)
    others = "".join(line for line in listed if line not in held_back)
    assert not [name for name in extras.LEAST_PYTHON if re.search(rf"[\[,]{name}[,\]]", others)]
