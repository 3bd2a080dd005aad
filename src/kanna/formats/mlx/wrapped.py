"""How mlx-lm stores models of text that it reads as a part of a larger one: Gemma 3n, Llama 4."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kanna.formats.mlx.names import MLXNames

_EXPERTS = "feed_forward.experts"
_OWN_HEAD = "mlx-lm 0.32 gives it a head of its own, and this one shares the embedding"
_NO_HEAD = "mlx-lm 0.32 reads the embedding in place of its head"
_WITH_WINDOW = 4
"""Layers of Llama 4 that mlx-lm needs at least: it asks the fourth for a mask."""


def _llama4(config: Mapping[str, Any]) -> str:
    if config.get("tie_word_embeddings"):
        return _OWN_HEAD
    if config.get("num_experts_per_tok", 1) != 1:
        return "mlx-lm 0.32 sends a token to one expert alone"
    if config.get("num_hidden_layers", _WITH_WINDOW) < _WITH_WINDOW:
        return f"mlx-lm 0.32 takes it to have {_WITH_WINDOW} layers or more"
    return ""


def _gemma3n(config: Mapping[str, Any]) -> str:
    return "" if config.get("tie_word_embeddings", True) else _NO_HEAD


def _of_shared_layers(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Keys and values of layers that read those of others, which checkpoints may leave out."""
    layers, size = int(config["num_hidden_layers"]), int(config["head_dim"])
    rows = int(config["num_key_value_heads"]) * size
    matrix = (rows, int(config["hidden_size"]))
    shapes = {"k_proj": matrix, "v_proj": matrix, "k_norm": (size,)}
    return {
        f"model.layers.{layer}.self_attn.{part}.weight": shape
        for layer in range(layers - int(config.get("num_kv_shared_layers") or 0), layers)
        for part, shape in shapes.items()
    }


_LLAMA4 = MLXNames(
    stacks=tuple(
        (f"{_EXPERTS}.{theirs}", f"{_EXPERTS}.{own}_proj.weight")
        for theirs, own in (
            ("gate_of_gate_up_proj", "gate"),
            ("up_of_gate_up_proj", "up"),
            ("down_of_down_proj", "down"),
        )
    ),
    prefix="language_model.",
    wrapped="llama4",
    needed={"attention_bias": False, "rope_scaling": None, "use_qk_norm": True},
    refuses=_llama4,
)
_GEMMA3N = MLXNames(
    body="model.language_model",
    wrapped="gemma3n",
    # Published models have this bound of training; mlx-lm has it at all times.
    needed={"altup_coef_clip": 120.0, "rope_scaling": None},
    apart=("altup_projections.weight", "altup_unembed_projections.weight"),
    unread=_of_shared_layers,
    refuses=_gemma3n,
)
WRAPPED: Mapping[str, MLXNames] = {"gemma3n_text": _GEMMA3N, "llama4_text": _LLAMA4}
"""By `model_type` of the text part's config."""
