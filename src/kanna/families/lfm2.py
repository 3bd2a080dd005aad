"""LFM2 and LFM2.5 (dense): short convolutions in most layers, attention in the others."""

from __future__ import annotations

from typing import Any

from kanna.families._config import Config
from kanna.families._keys import common
from kanna.families._stored_rope import short
from kanna.families.base import Block, Family, Metadata
from kanna.families.blocks.short_convolution import SHORT_CONVOLUTION, is_attention
from kanna.model import Model, ValueType, array, u32

ARCH = "lfm2"


def feed_forward(c: Config) -> int:
    """Width of the feed-forward part, as transformers derives it from the config."""
    width = c.count("block_ff_dim") if c.get("block_ff_dim") else c.ff
    if not c.flag("block_auto_adjust_ff_dim"):
        return width
    width = 2 * width // 3
    if c.given.get("block_ffn_dim_multiplier", 1.0) is None:  # null: not even rounded
        return width
    multiplier, step = c.number("block_ffn_dim_multiplier"), c.count("block_multiple_of")
    return -(-int(multiplier * width) // step) * step


def metadata(c: Config) -> Metadata:
    """The `lfm2.*` keys."""
    return keys(ARCH, c) | {f"{ARCH}.feed_forward_length": u32(feed_forward(c))}


def keys(arch: str, c: Config) -> Metadata:
    """Those that models with experts have too: key-value heads are 0 where nothing attends."""
    heads = [c.kv_heads if is_attention(c, layer) else 0 for layer in range(c.layers)]
    return common(arch, c, epsilon="norm_eps", head_dim=False) | {
        f"{arch}.attention.head_count_kv": array(heads, ValueType.I32),
        f"{arch}.vocab_size": u32(c.vocab),
    }


def to_config(model: Model) -> dict[str, Any]:
    """Config keys of LFM2, back from the metadata."""
    return layers_to_config(model) | {"block_auto_adjust_ff_dim": False}


def layers_to_config(model: Model) -> dict[str, Any]:
    """Those that models with experts have too."""
    heads = list(model.meta("{arch}.attention.head_count_kv"))
    return {
        "norm_eps": short(model.meta("{arch}.attention.layer_norm_rms_epsilon")),
        "layer_types": ["full_attention" if n else "conv" for n in heads],
    }


NAMES = {
    "model.embed_tokens": "token_embd",
    "model.layers.{}.operator_norm": "blk.{}.attn_norm",
    "model.layers.{}.ffn_norm": "blk.{}.ffn_norm",
    "model.embedding_norm": "token_embd_norm",
    "lm_head": "output",
}
FEED_FORWARD = {
    "model.layers.{}.feed_forward.w1": "blk.{}.ffn_gate",
    "model.layers.{}.feed_forward.w3": "blk.{}.ffn_up",
    "model.layers.{}.feed_forward.w2": "blk.{}.ffn_down",
}
ATTENTION = Block(
    names={
        "model.layers.{}.self_attn.q_proj": "blk.{}.attn_q",
        "model.layers.{}.self_attn.k_proj": "blk.{}.attn_k",
        "model.layers.{}.self_attn.v_proj": "blk.{}.attn_v",
        "model.layers.{}.self_attn.out_proj": "blk.{}.attn_output",
        "model.layers.{}.self_attn.q_layernorm": "blk.{}.attn_q_norm",
        "model.layers.{}.self_attn.k_layernorm": "blk.{}.attn_k_norm",
    },
    where=is_attention,
)

FAMILY = Family(
    arch=ARCH,
    summary="LFM2 and LFM2.5 (dense): short convolutions in most layers, attention in the others",
    architectures=("Lfm2ForCausalLM", "LFM2ForCausalLM"),
    model_type="lfm2",
    metadata=metadata,
    names=NAMES | FEED_FORWARD,
    blocks=(
        ATTENTION,
        SHORT_CONVOLUTION,
    ),
    shapes={"token_embd_norm": ("hidden",)},
    sizes=lambda c: {"ff": feed_forward(c)},
    defaults={
        "vocab_size": 65536,
        "hidden_size": 2560,
        "intermediate_size": 12288,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 128000,
        "norm_eps": 1e-5,
        "rope_theta": 1_000_000.0,
        "block_auto_adjust_ff_dim": True,
        "block_ffn_dim_multiplier": 1.0,
        "block_multiple_of": 256,
        "tie_word_embeddings": True,
    },
    fixed={"tie_embedding": (True,)},
    reads=frozenset(
        {
            "norm_eps",
            "block_ff_dim",
            "block_auto_adjust_ff_dim",
            "block_ffn_dim_multiplier",
            "block_multiple_of",
        }
    ),
    rope_types=frozenset({"default"}),
    to_config=to_config,
)
