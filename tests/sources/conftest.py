"""A tiny Hugging Face model, whole and as a copy to damage."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model, made once per file of tests."""
    pytest.importorskip("transformers")
    from helpers import tiny_models

    folder = tmp_path_factory.mktemp("good") / "tiny"
    tiny_models.make("llama", folder)
    return folder


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    shutil.copytree(good, tmp_path / "tiny")
    return tmp_path / "tiny"
