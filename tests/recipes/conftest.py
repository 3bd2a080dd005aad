from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def write(tmp_path: Path, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Write a recipe beside `tiny.gguf` and `other.txt`, in the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.gguf").symlink_to(tiny_gguf)
    (tmp_path / "other.txt").write_text("not a model\n", encoding="utf-8")

    def written(text: str, name: str = "recipe.yaml") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return written
