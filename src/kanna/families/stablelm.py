"""StableLM and StableLM 2: layer norms with biases, a quarter of a head rotates."""

from __future__ import annotations

from typing import Any

from kanna.families._config import Config
from kanna.families._keys import common
from kanna.families.base import (
    ATTENTION,
    ENDS,
    FEED_FORWARD,
    Block,
    Family,
    Metadata,
    derived_head_size,
)
from kanna.families.phi2 import rotary_part
from kanna.model import Model, boolean, u32

ARCH = "stablelm"


def metadata(c: Config) -> Metadata:
    """The `stablelm.*` keys."""
    return common(ARCH, c, head_dim=False, epsilon="layer_norm_eps", mean=True) | {
        f"{ARCH}.rope.dimension_count": u32(int(c.head_dim * c.rotary_part())),
        f"{ARCH}.use_parallel_residual": boolean(c.flag("use_parallel_residual")),
    }


def to_config(model: Model) -> dict[str, Any]:
    """Config keys of StableLM, back from the metadata and the tensors."""
    return rotary_part(model) | {
        "use_parallel_residual": "blk.0.ffn_norm.weight" not in model.tensors,
        "use_qkv_bias": "blk.0.attn_q.bias" in model.tensors,
    }


def _has_second_norm(c: Config) -> bool:
    return not c.flag("use_parallel_residual")


FAMILY = Family(
    arch=ARCH,
    summary="StableLM 3B, StableLM 2 1.6B and Zephyr",
    architectures=("StableLmForCausalLM", "StableLMEpochForCausalLM"),
    model_type="stablelm",
    metadata=metadata,
    names=ENDS | {"model.layers.{}.input_layernorm": "blk.{}.attn_norm"} | ATTENTION | FEED_FORWARD,
    blocks=(
        Block(
            names={"model.layers.{}.post_attention_layernorm": "blk.{}.ffn_norm"},
            present=_has_second_norm,
        ),
    ),
    biases=frozenset({"attn_norm", "ffn_norm", "output_norm"}),
    optional=frozenset({"attn_q.bias", "attn_k.bias", "attn_v.bias"}),
    defaults={
        "vocab_size": 50304,
        "hidden_size": 2560,
        "intermediate_size": 6912,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 4096,
        "layer_norm_eps": 1e-5,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "partial_rotary_factor": 0.25,
    },
    fixed={
        "hidden_act": ("silu", "swish"),
        "qk_layernorm": (False,),
        "tie_word_embeddings": (False,),
    },
    reads=frozenset({"layer_norm_eps", "partial_rotary_factor", "use_parallel_residual"}),
    bias_flags={"use_qkv_bias": ("attn_q", "attn_k", "attn_v")},
    rope_types=frozenset({"default"}),
    checks=derived_head_size,
    to_config=to_config,
)
