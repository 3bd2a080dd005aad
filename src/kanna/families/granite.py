"""Granite 3 and 4 (dense): a llama with four multipliers."""

from __future__ import annotations

from typing import Any

from kanna.families._config import Config
from kanna.families._keys import common
from kanna.families.base import Family, Metadata, derived_head_size
from kanna.families.blocks.multipliers import MULTIPLIERS
from kanna.model import u32

ARCH = "granite"


def metadata(c: Config, arch: str = ARCH) -> Metadata:
    """The keys of `arch`."""
    return common(arch, c, head_dim=False) | {
        f"{arch}.vocab_size": u32(c.vocab),
        f"{arch}.rope.dimension_count": u32(c.head_dim),
    }


DEFAULTS: dict[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
}

FAMILY = Family(
    arch=ARCH,
    summary="Granite 3 and 4 (dense): a llama with four multipliers",
    also=("Granite Guardian 3",),
    architectures=("GraniteForCausalLM",),
    model_type="granite",
    metadata=metadata,
    blocks=(MULTIPLIERS,),
    defaults=DEFAULTS,
    fixed={"hidden_act": ("silu", "swish"), "attention_bias": (False,), "mlp_bias": (False,)},
    rotate_half=True,
    checks=derived_head_size,
    to_config=lambda _: {"attention_bias": False, "mlp_bias": False},
)
