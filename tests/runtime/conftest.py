"""What tests of builds of llama.cpp share."""

from __future__ import annotations

from pathlib import Path

import pytest

from kanna.libllama import builds


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, with nothing chosen."""
    monkeypatch.setenv("KANNA_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(builds.VARIABLE, raising=False)
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"
