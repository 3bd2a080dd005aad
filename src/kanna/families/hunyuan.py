"""Hunyuan (dense): a norm on every head of q and k, after the rotary embedding."""

from __future__ import annotations

from typing import Any

from kanna.families._config import Config
from kanna.families._keys import common
from kanna.families.base import NAMES, Family, Metadata
from kanna.model import Model, f32

ARCH = "hunyuan-dense"


def base(c: Config) -> float:
    """The rotary base; `alpha` of a dynamic scaling raises it for every length of text."""
    rope = c.rope()
    alpha = rope.number("alpha", 0.0) if rope.kind == "dynamic" else 0.0
    return rope.theta * alpha ** (c.head_dim / (c.head_dim - 2)) if alpha else rope.theta


def metadata(c: Config) -> Metadata:
    """The `hunyuan-dense.*` keys."""
    return common(ARCH, c, head_dim=True) | {f"{ARCH}.rope.freq_base": f32(base(c))}


def to_config(_: Model) -> dict[str, Any]:
    """Config keys of Hunyuan alone."""
    return {"attention_bias": False}


FAMILY = Family(
    arch=ARCH,
    summary="Hunyuan (dense): a norm on every head of q and k, after the rotary embedding",
    also=("Hunyuan-MT",),
    architectures=("HunYuanDenseV1ForCausalLM",),
    model_type="hunyuan_v1_dense",
    metadata=metadata,
    names=NAMES
    | {
        "model.layers.{}.self_attn.query_layernorm": "blk.{}.attn_q_norm",
        "model.layers.{}.self_attn.key_layernorm": "blk.{}.attn_k_norm",
    },
    defaults={
        "vocab_size": 290943,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
    },
    fixed={
        "hidden_act": ("silu", "swish"),
        "attention_bias": (False,),
        "mlp_bias": (False,),
        "use_qk_norm": (True,),
        "use_cla": (False,),
    },
    rope_types=frozenset({"default", "dynamic"}),
    reads=frozenset({"eod_token_id", "num_experts"}),
    to_config=to_config,
)
