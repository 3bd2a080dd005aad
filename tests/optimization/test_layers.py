"""Costs of matrices that only some models have: convolutions, delta nets, embeddings per layer."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.calibrating import TOKENS, windows_of
from helpers.optimizing import quick

import kanna
from kanna import families
from kanna._util.progress import Silent
from kanna.calibration import gradients, statistics
from kanna.formats import gguf
from kanna.model import Model
from kanna.optimization.measure import measure

pytest.importorskip("torch")
pytest.importorskip("transformers")

from helpers import tiny_models  # noqa: E402 - needs torch

OWN = {
    "lfm2": ("blk.0.shortconv.in_proj.weight", "blk.2.shortconv.out_proj.weight"),
    "gemma4": ("blk.0.inp_gate.weight", "blk.6.proj.weight", "per_layer_token_embd.weight"),
    "gemma3n": ("blk.0.inp_gate.weight", "blk.21.attn_q.weight", "per_layer_token_embd.weight"),
    "llama4": (
        "blk.0.ffn_down.weight",
        "blk.1.ffn_up_exps.weight",
        "blk.3.ffn_down_exps.weight",
        "blk.3.ffn_gate_shexp.weight",
    ),
    "qwen35": ("blk.0.attn_qkv.weight", "blk.2.ssm_out.weight", "blk.3.attn_gate.weight"),
    "qwen35-moe": ("blk.0.ffn_down_shexp.weight", "blk.1.ffn_gate_exps.weight"),
    "falcon-h1": ("blk.0.ssm_in.weight", "blk.1.ssm_out.weight", "blk.2.attn_k.weight"),
    "gemma4-moe": ("blk.0.ffn_gate.weight", "blk.1.ffn_up_exps.weight", "blk.2.ffn_down.weight"),
    "nemotron-h-moe": (
        "blk.0.ssm_in.weight",
        "blk.1.ffn_up_exps.weight",
        "blk.3.ffn_up_shexp.weight",
    ),
}
"""Matrices that only these models have."""
KEPT = ("ssm_alpha", "ssm_beta", "ssm_conv1d", "shortconv.conv", "ffn_gate_inp")


SLOW = ("gemma3n", "llama4")
"""22 layers, and a vocabulary of 200,000; Gemma 4 and Qwen3.5 with experts stand for them."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in OWN]
)
def test_what_only_some_models_have_is_measured_and_rounded(name: str, tmp_path: Path) -> None:
    source, folder, text = tmp_path / "tiny", tmp_path / "stats", tmp_path / "text.txt"
    text.write_text(tiny_models.TEXT * 60, encoding="utf-8")
    with quick():
        tiny_models.make(name, source)
        kanna.calibrate(source, folder, calibration=[text], tokens=TOKENS)
        model = families.load_model(kanna.open_source(source))
        windows = windows_of(source, text, TOKENS)
        gradients.gradients(model, windows, folder, "key", device="cpu", progress=Silent())
        known = statistics.read(folder)
        measured = measure(
            model,
            known,
            tmp_path / "measure.json",
            threads=1,
            progress=Silent(),
            names=("q4_0", "q8_0", "f16"),
        )
    for tensor in OWN[name]:
        costs = measured.costs[tensor]
        assert 0 <= costs["f16"] < costs["q8_0"] < costs["q4_0"] < 1, tensor
    assert not [n for n in measured.costs if any(part in n for part in KEPT)]
    lost = {}
    for method in ("search", "gptq"):
        made = tmp_path / f"{method}.gguf"
        kanna.convert(source, made, encoding="q4_0", statistics=folder, method=method)
        lost[method] = [_lost(model, known, made, tensor) for tensor in OWN[name]]
    assert all(b < a for a, b in zip(lost["search"], lost["gptq"], strict=True) if a), lost


def _lost(model: Model, known: statistics.Statistics, made: Path, name: str) -> float:
    """Mean square error on the calibration inputs, of the first expert where there are some."""
    moment = known.second_moment(name)
    if moment is None:
        return 0.0
    tensor = model.tensors[name]
    rows = tensor.shape[-2]
    error = gguf.read(made).tensors[name].rows(0, rows) - tensor.rows(0, rows)
    (block,) = moment.of(0).blocks()
    return float(((error @ block.hessian) * error).sum())
