"""Programs and packages a test needs.

Without one the test is skipped on a developer's machine, and fails in CI.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from pathlib import Path

import pytest

from kanna import libllama
from kanna.errors import MissingError


def program(*names: str, install: str) -> str:
    """Path of the first of `names` that is installed; `install` says which package brings it."""
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    for name in names:
        if program := shutil.which(name, path=places):
            return program
    absent(f"needs {' or '.join(names)}", install)


def package(name: str) -> None:
    """Skip this module where a package is absent; its tests import it, which takes seconds."""
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"needs {name}", allow_module_level=True)


def absent(what: str, install: str) -> None:
    """Skip this test, or fail it in CI, where nothing that proves something may be left out."""
    message = f"{what}: install {install}"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


def llama_cpp() -> None:
    """Skip this test or module where no llama.cpp loads; fail it in CI."""
    try:
        libllama.library()
    except MissingError as error:
        if os.environ.get("CI"):
            pytest.fail(str(error))
        pytest.skip(str(error), allow_module_level=True)
