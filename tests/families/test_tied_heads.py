"""A head saved beside the embedding it is said to be: dropped where it is the same, else kept."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from kanna.conversion import ConversionRequest, convert
from kanna.errors import UnsupportedError
from kanna.families import load_model
from kanna.sources import open_source

pytest.importorskip("transformers")
from helpers import tiny_models  # noqa: E402

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def with_head(recipe: str, folder: Path, changed: int, dtype: str = "float32") -> Path:
    """A tied model with a head that differs from the embedding in so many values."""
    tiny_models.make(recipe, folder)
    weights = folder / "model.safetensors"
    values = load_file(weights)
    head = values[EMBEDDING].copy()
    head.flat[head.size - changed :] += 1.0
    save_file(values | {HEAD: head.astype(dtype)}, weights)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tie_word_embeddings": True}))
    return folder


@pytest.mark.parametrize("recipe", ["llama", "qwen3", "gemma2", "gemma3"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_same_head_is_left_out(recipe: str, dtype: str, tmp_path: Path) -> None:
    model = load_model(open_source(with_head(recipe, tmp_path / "m", 0, dtype)))
    assert "output.weight" not in model.tensors and not model.notes


@pytest.mark.parametrize("recipe", ["llama", "qwen3", "gemma3"])
@pytest.mark.parametrize("changed", [1, 5000])
def test_another_head_is_kept_and_said(recipe: str, changed: int, tmp_path: Path) -> None:
    folder = with_head(recipe, tmp_path / "m", changed)
    model = load_model(open_source(folder))
    assert any("the head is kept" in note for note in model.notes)
    head = load_file(folder / "model.safetensors")[HEAD]
    assert np.array_equal(model.tensors["output.weight"].rows(0, len(head)), head)


def test_another_head_is_refused_where_llama_cpp_has_none(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="differs from the embedding"):
        load_model(open_source(with_head("gemma2", tmp_path / "m", 1)))


@pytest.mark.parametrize(("format", "encoding"), [("mlx", "bf16"), ("safetensors", "f32")])
def test_folders_say_that_the_head_is_not_tied(format: str, encoding: str, tmp_path: Path) -> None:
    folder = with_head("llama", tmp_path / "m", 1)
    out = tmp_path / "out"
    convert(folder, out, ConversionRequest(encoding=encoding), format=format)
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is False
    assert HEAD in load_file(out / "model.safetensors") if encoding == "f32" else True
