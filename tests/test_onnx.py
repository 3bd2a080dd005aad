"""The float32 graph of every family, run in onnxruntime, against the model in transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models

import kanna
from kanna.errors import PlanError, UnsupportedError, UsageError

PROVED = ("llama-bias", "llama3", "smollm", "mistral", "qwen2", "qwen3")


@pytest.fixture(autouse=True)
def _distinct(monkeypatch: pytest.MonkeyPatch) -> None:
    """The builder takes a layer for the head when both have as many rows."""
    monkeypatch.setitem(tiny_models.SMALL, "intermediate_size", 640)


def logits(folder: Path, ids: np.ndarray) -> np.ndarray:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options)
    decoder = json.loads((folder / "genai_config.json").read_text())["model"]["decoder"]
    feed: dict[str, Any] = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    empty = np.zeros((1, decoder["num_key_value_heads"], 0, decoder["head_size"]), np.float32)
    feed |= {i.name: empty for i in session.get_inputs() if i.name.startswith("past")}
    return session.run(["logits"], feed)[0][0]


@pytest.mark.parametrize("name", PROVED)
def test_float32_graph_is_the_model(name: str, tmp_path: Path) -> None:
    import torch

    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    model = tiny_models.make(name, source)
    kanna.convert(source, out, preset="onnx:fp32", threads=1)
    ids = np.random.default_rng(0).integers(3, 500, (1, tiny_models.RECIPES[name].long))
    with torch.no_grad():
        wanted = model(torch.tensor(ids)).logits[0].numpy()
    assert np.abs(logits(out, ids) - wanted).max() < 1e-3 * wanted.std()
    assert {"tokenizer.json", "genai_config.json", "model.onnx.data"} <= {p.name for p in out.iterdir()}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "source"]


def test_what_the_builder_mistakes_is_refused_before_anything_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(tiny_models.SMALL, "intermediate_size", 512)
    tiny_models.make("llama", tmp_path)
    with pytest.raises(UnsupportedError, match="takes it for the head"):
        kanna.convert(tmp_path, tmp_path / "out", preset="onnx:fp32")


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("gemma2", "no proven graph"),
        ("phi3", "no proven graph"),
        ("qwen2-yarn", "rope is scaled"),
        ("llama-linear", "rope is scaled"),
        ("mistral-window", "attends to 64 tokens"),
    ],
)
def test_families_without_a_proven_graph_are_refused(name: str, match: str, tmp_path: Path) -> None:
    tiny_models.make(name, tmp_path)
    with pytest.raises(UnsupportedError, match=match):
        kanna.convert(tmp_path, dry_run=True, format="onnx")


def test_presets_and_options_of_other_formats_are_refused(tiny_gguf: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no preset"):
        kanna.convert(tiny_gguf, tmp_path / "out", preset="onnx:q4")
    with pytest.raises(PlanError, match="no operator of onnxruntime"):
        kanna.convert(tiny_gguf, tmp_path / "out", format="onnx", encoding="q8_0")
    with pytest.raises(UsageError, match="--imatrix has no use"):
        kanna.convert(tiny_gguf, tmp_path / "out", preset="onnx:int4", imatrix="matrix.gguf")
