"""LFM2 with experts (8B-A1B, 24B-A2B): the first layers are dense, the others route."""

from __future__ import annotations

from typing import Any

from kanna._util.typed import whole
from kanna.families import lfm2
from kanna.families._config import Config
from kanna.families.base import Block, Family, Metadata
from kanna.families.blocks.experts import experts, selection_bias, swiglu_spelling
from kanna.families.blocks.short_convolution import SHORT_CONVOLUTION
from kanna.model import Model, u32

ARCH = "lfm2moe"
SIGMOID = 2
"""llama.cpp's number of the function that weighs experts."""


def dense_layers(c: Config) -> int:
    """How many layers before the first with experts."""
    return c.read("num_dense_layers", whole(), 0)


def _routes(c: Config, layer: int) -> bool:
    return layer >= dense_layers(c)


def _is_dense(c: Config, layer: int) -> bool:
    return not _routes(c, layer)


def metadata(c: Config) -> Metadata:
    """The `lfm2moe.*` keys."""
    return lfm2.keys(ARCH, c) | {
        f"{ARCH}.leading_dense_block_count": u32(dense_layers(c)),
        f"{ARCH}.expert_gating_func": u32(SIGMOID),
    }


def to_config(model: Model) -> dict[str, Any]:
    """Config keys of LFM2 with experts, back from the metadata."""
    return lfm2.layers_to_config(model) | {
        "num_dense_layers": model.whole("{arch}.leading_dense_block_count", 0),
    }


FAMILY = Family(
    arch=ARCH,
    summary="LFM2 with experts: 8B-A1B, 24B-A2B",
    architectures=("Lfm2MoeForCausalLM",),
    model_type="lfm2_moe",
    metadata=metadata,
    names=lfm2.NAMES,
    blocks=(
        lfm2.ATTENTION,
        SHORT_CONVOLUTION,
        Block(names=lfm2.FEED_FORWARD, where=_is_dense),
        experts(swiglu_spelling("feed_forward"), where=_routes),
        selection_bias("feed_forward.expert_bias", _routes),
    ),
    shapes={"token_embd_norm": ("hidden",)},
    defaults={
        "vocab_size": 65536,
        "hidden_size": 2048,
        "intermediate_size": 7168,
        "moe_intermediate_size": 1792,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "num_dense_layers": 2,
        "num_experts": 32,
        "num_experts_per_tok": 4,
        "max_position_embeddings": 128000,
        "norm_eps": 1e-5,
        "rope_theta": 1_000_000.0,
        "tie_word_embeddings": True,
    },
    # llama.cpp normalises the weights of the chosen experts and reads no factor for them.
    fixed={
        "norm_topk_prob": (True,),
        "routed_scaling_factor": (1.0, 1),
        "tie_embedding": (True,),
        "use_expert_bias": (True,),
    },
    reads=frozenset({"norm_eps", "num_dense_layers", "output_router_logits"}),
    rope_types=frozenset({"default"}),
    to_config=to_config,
)
