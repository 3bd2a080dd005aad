"""gpt-oss as it is published: experts in MXFP4, which go to GGUF bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from families.test_families import kl, llama_logits, reference_logits
from helpers import tiny_models

import kanna
from kanna.formats import gguf
from kanna.model import num_rows

torch = pytest.importorskip("torch")
from safetensors.torch import load_file, save_file  # noqa: E402

EXPERTS = ("experts.gate_up_proj", "experts.down_proj")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, dict[str, Any]]:
    """The folder, the model that transformers makes of it, and its experts by name."""
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    folder = tmp_path_factory.mktemp("gpt-oss")
    model = tiny_models.make("gpt-oss", folder)
    random = torch.Generator().manual_seed(0)
    stored: dict[str, Any] = {}
    decoded: dict[str, Any] = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        if not name.endswith(EXPERTS):
            stored[name] = decoded[name] = tensor.bfloat16()
            continue
        experts, inputs, outputs = tensor.shape
        shape = (experts, outputs, inputs // 32)
        blocks = torch.randint(0, 256, (*shape, 16), generator=random, dtype=torch.uint8)
        scales = torch.randint(120, 124, shape, generator=random, dtype=torch.uint8)
        stored |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
        decoded[name] = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
    save_file(stored, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}
    (folder / "config.json").write_text(json.dumps(config))
    model.load_state_dict({n: t.float() for n, t in decoded.items()}, strict=False)
    return folder, model, decoded


def test_in_floats_it_is_the_model(published: Any, tmp_path: Path) -> None:
    folder, model, _ = published
    kanna.convert(folder, tmp_path / "f32.gguf", encoding="f32")
    ids = np.random.default_rng(1).integers(3, 400, 100).tolist()
    theirs, ours = reference_logits(model, ids), llama_logits(tmp_path / "f32.gguf", ids)
    assert kl(theirs, ours).mean() < 2e-11


def test_its_blocks_are_carried(published: Any, tmp_path: Path) -> None:
    folder, _, decoded = published
    kanna.convert(folder, tmp_path / "model.gguf", preset="MXFP4_MOE")
    tensors = gguf.read(tmp_path / "model.gguf").tensors
    for layer in range(4):
        at = f"model.layers.{layer}.mlp.experts."
        both = decoded[at + "gate_up_proj"].transpose(1, 2)
        parts = {"gate": both[:, 0::2], "up": both[:, 1::2]}
        parts["down"] = decoded[at + "down_proj"].transpose(1, 2)
        for kind, wanted in parts.items():
            tensor = tensors[f"blk.{layer}.ffn_{kind}_exps.weight"]
            values = tensor.rows(0, num_rows(tensor)).reshape(tensor.shape)
            assert tensor.dtype == "mxfp4" and np.array_equal(values, wanted.numpy())
