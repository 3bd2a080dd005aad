"""The last few references stay in the cache, and those that another process may be at work with."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

import kanna
from kanna.evaluation.reference import is_there, reference_gguf
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


def test_whether_one_has_to_be_made_is_known_before(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sources: list[Path]
) -> None:
    monkeypatch.setattr(packages, "cache_dir", lambda: tmp_path)
    packed = kanna.open_source(sources[0])
    assert not is_there(packed, ["llamacpp"])
    exact = reference_gguf(packed)
    assert is_there(packed, ["llamacpp"]) and not is_there(packed, ["llamacpp"], hashed=False)
    assert is_there(kanna.open_source(exact), ["llamacpp"], hashed=False), "it is its own"
    folder = kanna.open_source(sources[0].parent / "tiny")
    assert is_there(folder, ["onnxruntime"], hashed=False), "transformers reads it as it is"
    assert not is_there(folder, ["llamacpp"])
