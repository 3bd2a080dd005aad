"""Angles of rotary embeddings as transformers computes them."""

from __future__ import annotations

from typing import Any


def frequencies(config: Any) -> tuple[Any, float]:
    """Inverse frequencies, f32 [rotary / 2], and what cosines and sines are multiplied by."""
    import torch
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope = config.rope_parameters
    kind = rope["rope_type"]
    if kind != "default":
        return ROPE_INIT_FUNCTIONS[kind](config, "cpu")
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    width = int(head * rope.get("partial_rotary_factor", 1.0))
    return rope["rope_theta"] ** -(torch.arange(0, width, 2).float() / width), 1.0


def of_config(config: Any, length: int) -> tuple[Any, Any]:
    """Tables of cosines and of sines, f32 [length, frequencies] each."""
    import torch

    turns, factor = frequencies(config)
    angles = torch.outer(torch.arange(length).float(), turns)
    return angles.cos() * factor, angles.sin() * factor
