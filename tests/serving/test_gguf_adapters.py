"""Adapters in GGUF beside a GGUF: what does not fit is refused before a server is started."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import needs, tiny_adapters, tiny_models
from helpers.tiny_adapters import RECIPES

import kanna
from kanna.errors import UsageError
from kanna.serving.engines.gguf import check_adapter

needs.package("peft")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model as a file, an adapter of it alone, and a file of another family."""
    folder = tmp_path_factory.mktemp("gguf-adapters")
    tiny_adapters.base("llama", folder / "source")
    tiny_adapters.make(folder / "source", folder / "adapter", **RECIPES["lora"].config)
    kanna.convert(folder / "source", folder / "lora.gguf", adapter=folder / "adapter", threads=1)
    kanna.convert(folder / "source", folder / "base.gguf", preset="Q8_0", threads=1)
    tiny_adapters.base("qwen2", folder / "other")
    kanna.convert(folder / "other", folder / "other.gguf", preset="Q8_0", threads=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_models, "SMALL", {**tiny_models.SMALL, "intermediate_size": 32})
        tiny_models.make("llama", folder / "narrow")
    kanna.convert(folder / "narrow", folder / "narrow.gguf", preset="Q8_0", threads=1)
    return folder


def test_an_adapter_of_the_base_is_taken(home: Path) -> None:
    check_adapter(home / "base.gguf", home / "lora.gguf")


@pytest.mark.parametrize(
    ("base", "adapter", "words"),
    [
        ("other.gguf", "lora.gguf", "of the family llama, not qwen2"),
        ("base.gguf", "other.gguf", "is a model, not an adapter"),
        ("base.gguf", "adapter", "is a folder"),
        ("narrow.gguf", "lora.gguf", r"rows of blk\.\d\.ffn_up\.weight, which has 32"),
    ],
)
def test_what_does_not_fit_is_refused(home: Path, base: str, adapter: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as refused:
        check_adapter(home / base, home / adapter)
    assert refused.value.todo
