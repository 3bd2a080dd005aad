"""SmolLM3: a llama in which every fourth layer has no rotary embedding."""

from __future__ import annotations

from typing import Any

from kanna._util.typed import whole
from kanna.families._config import Config
from kanna.families._keys import common
from kanna.families.base import Family, Metadata, Problem
from kanna.model import Model, u32

ARCH = "smollm3"
PERIOD = 4
"""llama.cpp leaves the rotary embedding out of every fourth layer, whatever the file says."""


def metadata(c: Config) -> Metadata:
    """The `smollm3.*` keys."""
    return common(ARCH, c, head_dim=False) | {
        f"{ARCH}.vocab_size": u32(c.vocab),
        f"{ARCH}.rope.dimension_count": u32(c.head_dim),
    }


def _rotates(layers: int) -> list[int]:
    return [int((i + 1) % PERIOD != 0) for i in range(layers)]


def checks(c: Config) -> list[Problem]:
    """Another pattern of layers without a rotary embedding is not in llama.cpp's graph."""
    period = c.read("no_rope_layer_interval", whole(1), PERIOD)
    given = c.get("no_rope_layers")
    if given is None:
        given = [int((i + 1) % period != 0) for i in range(c.layers)]
    if given == _rotates(c.layers):
        return []
    return [
        Problem(
            "config.json has another pattern of no_rope_layers",
            f"every {PERIOD}th layer without a rotary embedding",
            "no stock runtime computes this model",
        )
    ]


def to_config(model: Model) -> dict[str, Any]:
    """Config keys of SmolLM3 alone."""
    return {
        "no_rope_layers": _rotates(model.whole("{arch}.block_count")),
        "use_sliding_window": False,
    }


FAMILY = Family(
    arch=ARCH,
    summary="SmolLM3: a llama in which every fourth layer has no rotary embedding",
    architectures=("SmolLM3ForCausalLM",),
    model_type="smollm3",
    metadata=metadata,
    defaults={
        "vocab_size": 128256,
        "hidden_size": 2048,
        "intermediate_size": 11008,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "rope_theta": 2_000_000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
    },
    fixed={
        "hidden_act": ("silu", "swish"),
        "attention_bias": (False,),
        "mlp_bias": (False,),
        "use_sliding_window": (False,),
    },
    reads=frozenset({"no_rope_layers", "no_rope_layer_interval", "layer_types", "sliding_window"}),
    rotate_half=True,
    checks=checks,
    to_config=to_config,
)
