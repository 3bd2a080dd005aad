"""The public names of `kanna`: they import on first use and are documented."""

from __future__ import annotations

import inspect
import pickle
import re
import subprocess
import sys
from typing import Any

import pytest

import kanna

VERBS = [name for name in kanna.__all__ if inspect.isfunction(getattr(kanna, name))]


def _documented(function: Any) -> list[str]:
    """Parameters that the section Args of a Google docstring names, in order."""
    text = inspect.getdoc(function) or ""
    section = re.search(r"^Args:\n((?:    .*\n?|\n)+)", text, re.MULTILINE)
    return re.findall(r"^    (\w+): ", section[1], re.MULTILINE) if section else []


@pytest.mark.parametrize("name", kanna.__all__)
def test_every_name_imports_and_is_listed(name: str) -> None:
    assert getattr(kanna, name) is not None
    assert name in dir(kanna)


def test_a_fresh_process_imports_a_name() -> None:
    code = (
        "import pickle, sys\nimport kanna\n"
        "assert 'convert' in dir(kanna) and 'kanna.conversion' not in sys.modules\n"
        "from kanna import convert\n"
        "assert kanna.convert is convert and callable(convert)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = kanna.nothing  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("name", VERBS)
def test_functions_survive_pickling(name: str) -> None:
    function = getattr(kanna, name)
    assert pickle.loads(pickle.dumps(function)) is function


@pytest.mark.parametrize("name", VERBS)
def test_the_docstring_names_every_parameter(name: str) -> None:
    function = getattr(kanna, name)
    summary = (inspect.getdoc(function) or "").splitlines()[0]
    assert summary.endswith(".") and len(summary) <= 96
    assert _documented(function) == list(inspect.signature(function).parameters)
