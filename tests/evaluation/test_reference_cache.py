"""The last few references stay in the cache, and those that another process may be at work with."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

import kanna
from kanna.evaluation.reference import reference_gguf
from kanna.sources import packages

pytest.importorskip("torch")
pytest.importorskip("transformers")

from helpers import tiny_models  # noqa: E402 - needs torch


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Seven files of one model that differ in their last weight."""
    folder = tmp_path_factory.mktemp("references")
    tiny_models.make("llama", folder / "tiny")
    kanna.convert(folder / "tiny", folder / "tiny.gguf", encoding="q8_0")
    data, made = bytearray((folder / "tiny.gguf").read_bytes()), list[Path]()
    for number in range(7):
        data[-1] = number
        made.append(folder / f"{number}.gguf")
        made[-1].write_bytes(data)
    return made


@pytest.mark.parametrize(("hours", "kept"), [(0.5, 7), (2.0, 4)], ids=["in use", "of before"])
def test_references_of_before_go(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sources: list[Path], hours: float, kept: int
) -> None:
    monkeypatch.setattr(packages, "cache_dir", lambda: tmp_path)
    made: list[Path] = []
    for number, source in enumerate(sources):
        made.append(reference_gguf(source))
        used = time.time() - 3600 * hours + number
        os.utime(made[-1], (used, used))
    assert [path.exists() for path in made] == [False] * (7 - kept) + [True] * kept
