from __future__ import annotations

from pathlib import Path

import pytest

RECIPE = """
name: Two presets
variables:
  model: ./model/tiny.gguf
  presets: [Q8_0, Q4_0]
steps:
  small:
    verb: convert
    for: {preset: "${presets}"}
    with: {source: "${model}", preset: "${preset}"}
  about:
    verb: inspect
    with: {source: "${small}"}
outputs:
  files: ${small}
"""


@pytest.fixture
def recipe(tmp_path: Path, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe in a repository, beside its model; the current folder is the repository."""
    (tmp_path / "repository" / ".git").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "repository")
    folder = tmp_path / "repository" / "recipes"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "tiny.gguf").symlink_to(tiny_gguf)
    path = folder / "presets.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    return path
