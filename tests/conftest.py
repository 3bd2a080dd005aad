"""Sources that many tests share; made once per run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from making import gguf_file, metadata_of_a_llama

from kanna import fetch


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The embedded default."""
    return fetch.smollm2_gguf()


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random float16 llama of two layers, 256 wide: everything but a tokenizer."""
    path = tmp_path_factory.mktemp("tiny") / "tiny.gguf"
    rng = np.random.default_rng(1)
    tensors = {"token_embd.weight": rng.standard_normal((64, 256)).astype(np.float16)}
    for layer in range(2):
        for name, shape in (
            ("attn_norm", (256,)),
            ("attn_q", (256, 256)),
            ("attn_k", (128, 256)),
            ("attn_v", (128, 256)),
            ("attn_output", (256, 256)),
            ("ffn_norm", (256,)),
            ("ffn_gate", (512, 256)),
            ("ffn_up", (512, 256)),
            ("ffn_down", (256, 512)),
        ):
            kind = np.float32 if len(shape) == 1 else np.float16
            tensors[f"blk.{layer}.{name}.weight"] = rng.standard_normal(shape).astype(kind)
    tensors["output_norm.weight"] = np.ones(256, np.float32)
    return gguf_file(path, tensors, metadata_of_a_llama(layers=2, hidden=256, heads=4, kv_heads=2, feed=512))
