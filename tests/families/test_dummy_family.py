"""A family of a third party, found by its entry point: a llama of another name is converted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.plugging import plugged
from helpers.tiny_models import make

from kanna import components, convert, inspect
from kanna.errors import UnsupportedError
from kanna.families import get
from kanna.sources import open_source

CODE = '''
"""Dummy: a llama that is published under another name."""

from dataclasses import replace

from kanna.families.llama import FAMILY as LLAMA

FAMILY = replace(
    LLAMA,
    summary="Dummy: a llama of another name",
    architectures=("DummyForCausalLM",),
    model_type="dummy",
)
'''


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random llama that calls itself a dummy."""
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("families") / "dummy"
    make("llama", folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"architectures": ["DummyForCausalLM"], "model_type": "dummy"}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def dummy(tmp_path: Path) -> Iterator[None]:
    with plugged(tmp_path / "site", "kanna.families", "dummy", CODE, "FAMILY"):
        yield


def test_without_the_family_the_source_is_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="DummyForCausalLM"):
        convert(source, tmp_path / "dummy.gguf", encoding="q8_0")


def test_with_it_the_source_is_inspected_and_converted(
    dummy: None, source: Path, tmp_path: Path
) -> None:
    assert get("dummy").model_type == "dummy"
    report = inspect(source)
    assert report.family == "llama" and not report.problems
    convert(source, tmp_path / "dummy.gguf", encoding="q8_0")
    written = open_source(tmp_path / "dummy.gguf")
    assert written.tensors["blk.2.ffn_down.weight"].dtype == "q8_0"


def test_it_is_listed(dummy: None) -> None:
    [kind] = components("families", "dummy").kinds
    [component] = kind.components
    assert component.summary == "Dummy: a llama of another name"
    assert component.facts["architectures"] == ["DummyForCausalLM"]
