"""A genai_config.json of a tiny model, as far as kanna reads it."""

from __future__ import annotations

from typing import Any

DECODER: dict[str, Any] = {
    "filename": "model.onnx",
    "head_size": 8,
    "hidden_size": 16,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "num_hidden_layers": 2,
    "inputs": {"input_ids": "input_ids"},
    "outputs": {"logits": "logits"},
}
MODEL: dict[str, Any] = {
    "type": "llama",
    "context_length": 64,
    "vocab_size": 32,
    "decoder": DECODER,
}
