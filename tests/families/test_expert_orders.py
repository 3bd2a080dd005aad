"""Experts of a layer in one tensor, with rows before columns or after, are read alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from kanna import families, sources
from kanna.errors import UnsupportedError
from kanna.model import num_rows

pytest.importorskip("torch")
pytest.importorskip("transformers")

from helpers import tiny_models  # noqa: E402 - needs torch


def test_qwen3vl_with_experts_is_read_in_either_order(tmp_path: Path) -> None:
    tiny_models.make("qwen3vl-moe", tmp_path)
    path = tmp_path / "model.safetensors"
    saved = load_file(path)
    stacks = {n: t for n, t in saved.items() if n.endswith(("gate_up_proj", "down_proj"))}
    assert {t.shape for t in stacks.values()} == {(6, 192, 256), (6, 256, 96)}
    first = families.load_model(sources.open_source(tmp_path)).tensors
    expected = {n: t.rows(0, num_rows(t)) for n, t in first.items() if "exps" in n}
    turned = {n: np.ascontiguousarray(t.transpose(0, 2, 1)) for n, t in stacks.items()}
    save_file(saved | turned, path)
    again = families.load_model(sources.open_source(tmp_path)).tensors
    assert len(expected) == 9
    for name, values in expected.items():
        assert np.array_equal(again[name].rows(0, num_rows(again[name])), values), name
    wrong = {n: np.ones((6, 100, 96), np.float32) for n in stacks if n.endswith("down_proj")}
    save_file(saved | wrong, path)
    with pytest.raises(UnsupportedError, match=r"experts.down_proj has shape \[6, 100, 96\]"):
        families.load_model(sources.open_source(tmp_path))
