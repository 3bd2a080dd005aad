"""The float32 graph of every family, run in onnxruntime, against the model in transformers."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from helpers import in_process, tiny_models, tiny_recipe
from helpers.onnx_logits import logits

import kanna
from kanna.errors import PlanError, UnsupportedError, UsageError
from kanna.formats.onnx import build

LIMIT = 5e-5
"""Largest difference of logits, in their standard deviations; 1e-5 was measured."""

HALF_WINDOWED = tiny_recipe.Recipe(
    "qwen2",
    "Qwen2ForCausalLM",
    "Qwen2Config",
    {"use_sliding_window": True, "sliding_window": 48, "max_window_layers": 1},
    tokenizer="qwen2",
)
OWN_FACTOR = replace(
    (PHI := tiny_models.RECIPES["phi4-mini"]),
    values=PHI.values
    | {"rope_parameters": PHI.values["rope_parameters"] | {"attention_factor": 1.5}},
)
OSS_YARN = replace(
    (OSS := tiny_models.RECIPES["gpt-oss"]),
    values=OSS.values
    | {
        "layer_types": ["full_attention", "sliding_attention"] * 2,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 150000.0,
            "factor": 4.0,
            "original_max_position_embeddings": 256,
            "truncate": False,
        },
    },
)
OWN = {"qwen2-window": HALF_WINDOWED, "phi-factor": OWN_FACTOR, "gpt-oss-yarn": OSS_YARN}
RECIPES = tiny_models.RECIPES | OWN
WRITTEN = {n: r for n, r in RECIPES.items() if r.family not in build.REFUSED}
COVERED = {"llama", "phi3", "qwen2"}
"""What another recipe does, and something beside it."""
SLOW = {"granite-moe", "gpt-oss", "mixtral", "olmoe", "qwen2-moe", "qwen3-moe"}
"""Experts: granite-moe-shared and gpt-oss-yarn stand for them, and test_onnx_experts.py."""


@pytest.fixture(autouse=True)
def _distinct(monkeypatch: pytest.MonkeyPatch) -> None:
    """The builder takes a matrix for the head when both have as many rows."""
    for key, value in (("intermediate_size", 640), ("vocab_size", 544)):
        monkeypatch.setitem(tiny_models.SMALL, key, value)
    monkeypatch.setattr(tiny_models, "RECIPES", RECIPES)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else [])
        for name in sorted(set(WRITTEN) - COVERED)
    ],
)
def test_float32_graph_is_the_model(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read at once, beyond every window.

    And in pieces, the last of them single tokens, as text is generated.
    """
    import torch

    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    if name.startswith("gemma"):
        # Its square root, which Gemma multiplies embeddings with, has more than two decimals.
        monkeypatch.setitem(tiny_models.SMALL, "hidden_size", 128)
    model = tiny_models.make(name, source)
    kanna.convert(source, out, preset="onnx:fp32", threads=1)
    length = RECIPES[name].long
    ids = np.random.default_rng(0).integers(3, 500, (1, length))
    with torch.no_grad():
        wanted = model(torch.tensor(ids)).logits[0].numpy()
    assert np.abs(logits(out, ids) - wanted).max() < LIMIT * wanted.std()
    with in_process.opened(out, context=length) as engine:
        # What is read on the near side of a rope's edge is no part of a longer text.
        cuts = [0, engine.rope_edge + 7, length - 20, *range(length - 3, length + 1)]
        found = [engine.forward(ids[0, a:b].tolist(), b - a) for a, b in pairwise(cuts)]
    assert np.abs(np.concatenate(found) - wanted).max() < LIMIT * wanted.std()
    assert {"tokenizer.json", "genai_config.json", "model.onnx.data"} <= {
        p.name for p in out.iterdir()
    }
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "source"]


def test_what_the_builder_mistakes_is_refused_before_anything_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(tiny_models.SMALL, "intermediate_size", 544)
    tiny_models.make("llama", tmp_path)
    with pytest.raises(UnsupportedError, match="takes it for the head"):
        kanna.convert(tmp_path, tmp_path / "out", preset="onnx:fp32")


def test_presets_and_options_of_other_formats_are_refused(tiny_gguf: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no preset"):
        kanna.convert(tiny_gguf, tmp_path / "out", preset="onnx:q4")
    with pytest.raises(PlanError, match="no operator of onnxruntime"):
        kanna.convert(tiny_gguf, tmp_path / "out", format="onnx", encoding="q8_0")
    with pytest.raises(UsageError, match="--imatrix has no use"):
        kanna.convert(tiny_gguf, tmp_path / "out", preset="onnx:int4", imatrix="matrix.gguf")
