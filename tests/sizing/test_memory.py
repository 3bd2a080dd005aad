"""Memory that `fit` counts, beside what llama.cpp allocates and what its process then takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from helpers import hollow

from kanna import convert, families, fit, formats, runtimes
from kanna.benchmark.full_context import full_context
from kanna.formats import mlx
from kanna.formats.memory import (
    TOKEN_BYTES,
    buffer_bytes,
    cache_bytes,
    resident_buffer_bytes,
)
from kanna.formats.process_memory import ProcessMemory
from kanna.model import Model
from kanna.sources import open_source

PERIOD = ["linear_attention"] * 3 + ["full_attention"]
LFM2_KINDS = ["conv", "conv", "full_attention"] * 3 + ["conv", "full_attention"] * 3 + ["conv"]


@dataclass(frozen=True)
class Shape:
    """A model by its family and the sizes of its config; the rest is as the family has it."""

    family: str
    width: int
    inner: int
    layers: int
    heads: tuple[int, int]
    vocabulary: int
    more: dict[str, Any] = field(default_factory=dict)

    def config(self) -> dict[str, Any]:
        """The keys of config.json."""
        return {
            "hidden_size": self.width,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads[0],
            "num_key_value_heads": self.heads[1],
            "vocab_size": self.vocabulary,
            "max_position_embeddings": 131072,
            **self.more,
        }


MAMBA = {"mamba_d_head": 64, "mamba_n_groups": 1}
FALCON_H1 = MAMBA | {
    "head_dim": 128,
    "mamba_d_ssm": 3072,
    "mamba_n_heads": 48,
    "mamba_d_state": 256,
    "mamba_norm_before_gate": False,
}
SHAPES = {
    "llama": Shape("llama", 4096, 14336, 32, (32, 8), 128256),
    "windows": Shape(
        "gemma3",
        2560,
        10240,
        34,
        (8, 4),
        262144,
        {
            "head_dim": 256,
            "sliding_window": 1024,
            "query_pre_attn_scalar": 256,
            "tie_word_embeddings": True,
        },
    ),
    "experts and windows": Shape(
        "gpt_oss",
        2880,
        2880,
        24,
        (64, 8),
        201088,
        {
            "head_dim": 64,
            "num_local_experts": 32,
            "num_experts_per_tok": 4,
            "sliding_window": 128,
        },
    ),
    "shared keys, embeddings per layer": Shape(
        "gemma4",
        1536,
        6144,
        35,
        (8, 1),
        262144,
        {
            "head_dim": 256,
            "global_head_dim": 512,
            "hidden_size_per_layer_input": 256,
            "vocab_size_per_layer_input": 262144,
            "num_kv_shared_layers": 20,
            "use_double_wide_mlp": True,
            "sliding_window": 512,
            "layer_types": (["sliding_attention"] * 4 + ["full_attention"]) * 7,
            "tie_word_embeddings": True,
        },
    ),
    "convolutions": Shape(
        "lfm2",
        2048,
        8192,
        16,
        (32, 8),
        65536,
        {"conv_L_cache": 3, "tie_word_embeddings": True, "layer_types": LFM2_KINDS},
    ),
    "delta nets": Shape(
        "qwen35",
        2560,
        9216,
        32,
        (16, 4),
        248320,
        {
            "head_dim": 256,
            "linear_key_head_dim": 128,
            "linear_value_head_dim": 128,
            "linear_num_key_heads": 16,
            "linear_num_value_heads": 32,
            "layer_types": PERIOD * 8,
        },
    ),
    "experts": Shape(
        "qwen3moe",
        2048,
        6144,
        48,
        (32, 4),
        151936,
        {
            "head_dim": 128,
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "moe_intermediate_size": 768,
        },
    ),
    "states beside keys": Shape("falcon_h1", 2048, 4096, 24, (8, 2), 65536, FALCON_H1),
    "states": Shape(
        "granitehybrid",
        2048,
        8192,
        40,
        (32, 8),
        100352,
        MAMBA
        | {
            "shared_intermediate_size": 8192,
            "num_local_experts": 0,
            "layer_types": (["mamba"] * 9 + ["attention"]) * 4,
            "mamba_n_heads": 64,
            "mamba_d_state": 128,
            "attention_multiplier": 0.0156,
            "embedding_multiplier": 12.0,
            "residual_multiplier": 0.22,
            "logits_scaling": 8.0,
        },
    ),
    "layers of one part": Shape(
        "nemotron_h",
        4096,
        21504,
        24,
        (32, 8),
        131072,
        {
            "head_dim": 128,
            "mamba_num_heads": 128,
            "mamba_head_dim": 64,
            "n_groups": 8,
            "ssm_state_size": 128,
            "layers_block_type": (["linear_attention", "mlp"] * 3 + ["full_attention", "mlp"]) * 3,
        },
    ),
}
ROUNDING = 3 * 0.005 * 2**20
"""The log has a hundredth of a MiB, of three figures."""


@pytest.mark.parametrize("name", SHAPES)
def test_what_llama_cpp_allocates_is_what_is_counted(name: str, tmp_path: Path) -> None:
    shape = SHAPES[name]
    source = hollow.folder(shape.family, shape.config(), tmp_path / "source")
    path = tmp_path / "model.gguf"
    model = hollow.as_gguf(source, path, "Q4_0")
    weights = path.stat().st_size
    for context in (4096, 16384):
        real = hollow.allocation(path, context)
        kept = cache_bytes(model, context)
        assert kept == pytest.approx(real.cache + real.state, abs=ROUNDING)
        counted = weights + kept + buffer_bytes(model, context) - TOKEN_BYTES * shape.vocabulary
        assert counted == pytest.approx(weights + real.cache + real.state + real.compute, rel=0.03)


NARROW = {
    "states beside keys": Shape("falcon_h1", 1024, 2048, 4, (8, 2), 32000, FALCON_H1),
    "rows as they are asked for": Shape(
        "gemma4",
        512,
        2048,
        2,
        (8, 1),
        131072,
        {
            "head_dim": 256,
            "global_head_dim": 512,
            "hidden_size_per_layer_input": 8448,
            "vocab_size_per_layer_input": 131072,
            "num_kv_shared_layers": 0,
            "use_double_wide_mlp": False,
            "sliding_window": 512,
            "layer_types": ["sliding_attention", "full_attention"],
            "tie_word_embeddings": True,
        },
    ),
}


@pytest.mark.slow  # code of the library that was never read before counts, too: it differs by build
@pytest.mark.parametrize("name", NARROW)
def test_a_process_takes_what_is_counted(name: str, tmp_path: Path) -> None:
    """Weights, vocabulary, a cache of 2,048 tokens and the buffers of a batch are in memory."""
    shape = NARROW[name]
    source = hollow.folder(shape.family, shape.config(), tmp_path / "source")
    hollow.as_gguf(source, tmp_path / "model.gguf", "BF16")
    result = fit(source, context=2048, memory="64GB")
    row = next(row for row in result.rows if row.preset == "BF16")
    # All of a batch are asked for: they are computed, and kept.
    logits = 4 * 512 * shape.vocabulary
    model = families.load_model(open_source(source))
    computed = buffer_bytes(model, 2048) - resident_buffer_bytes(model, 2048)
    assert hollow.resident(tmp_path / "model.gguf", 2048) == pytest.approx(
        row.memory_bytes + computed + logits, rel=0.03
    )
    assert bool(row.on_demand_bytes) == (name == "rows as they are asked for")
    assert row.weight_bytes + row.on_demand_bytes == pytest.approx(row.file_bytes, rel=0.01)


def test_runtimes_without_windowed_caches_keep_all_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """llama.cpp and mlx-lm keep a window in five of six layers; ONNX and OpenVINO graphs all."""
    monkeypatch.setattr(mlx, "ON_CPU", False)
    shape = SHAPES["windows"]
    source = hollow.folder(shape.family, shape.config(), tmp_path / "source")
    rows = {
        name: fit(source, memory="8GB", context=65536, format=name).rows[0]
        for name in ("gguf", "mlx", "onnx", "openvino")
    }
    tokens = {name: row.kv_bytes for name, row in rows.items()}
    assert min(tokens["onnx"], tokens["openvino"]) > 2 * max(tokens["gguf"], tokens["mlx"]), tokens


def test_a_model_may_take_more_while_it_is_opened_than_when_it_reads() -> None:
    process = ProcessMemory(fixed=10, opening=20, copied_opening=lambda _name, _kind, size: size)
    tensors, model = [("a", "f32", 100)], Model(name="", family="llama", tensors={}, metadata={})
    assert process.bytes_of(model, tensors, computing=30) == 20 + 100 - 30
    assert process.bytes_of(model, tensors, computing=200) == 10


PRESETS = ["Q8_0", "openvino:int8", "onnx:w8"]


@pytest.mark.parametrize("preset", PRESETS)
def test_a_process_with_its_context_full_takes_what_is_predicted(
    preset: str, tmp_path: Path
) -> None:
    """A small real model; the table of all is `python -m benchmarks.hardware.predictions`."""
    format = preset.rpartition(":")[0]
    runtime = runtimes.get(formats.get(format or "gguf").runtime)
    if not runtime.available().ok:
        pytest.skip(f"{runtime.title} is not installed")
    path = tmp_path / ("model.gguf" if not format else "model")
    convert("builtin:stories15m", path, preset=preset)
    rows = fit("builtin:stories15m", context=256, memory="8GB", format=format or "gguf").rows
    row = next(row for row in rows if row.preset == preset)
    assert row.memory_bytes == (
        row.weight_bytes + row.kv_bytes + row.buffer_bytes + row.runtime_bytes
    )
    taken = full_context(path, context=256, threads=1)
    assert taken.peak == pytest.approx(row.memory_bytes, rel=0.08)
