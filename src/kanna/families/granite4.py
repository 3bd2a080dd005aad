"""Granite 4 without states or experts (350M, 1B, micro): in GGUF it is `granite`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kanna.families import granite
from kanna.families._config import Config
from kanna.families.base import (
    FEED_FORWARD,
    NAMES,
    Block,
    Family,
    Metadata,
    Problem,
    derived_head_size,
)
from kanna.families.blocks.multipliers import MULTIPLIERS
from kanna.families.granitemoe import HALVES, SHARED, SHARED_PARTS
from kanna.model import u32

ATTENDS = ("attention", "full_attention")
"""What config.json calls layers that attend."""


def suits(config: Mapping[str, Any]) -> bool:
    """Whether no layer of a config.json has a state or experts."""
    kinds = config.get("layer_types")
    attends = isinstance(kinds, list) and all(kind in ATTENDS for kind in kinds)
    return attends and not config.get("num_local_experts")


def metadata(c: Config) -> Metadata:
    """The `granite.*` keys."""
    width = u32(c.count(SHARED))
    return granite.metadata(c) | {f"{granite.ARCH}.feed_forward_length": width}


def checks(c: Config) -> list[Problem]:
    """Raise SourceError where there is not one kind for each layer."""
    c.layer_kinds(ATTENDS)
    return derived_head_size(c)


FAMILY = Family(
    arch=granite.ARCH,
    summary="Granite 4 without states or experts: 350M, 1B, micro",
    architectures=("GraniteMoeHybridForCausalLM",),
    model_type="granitemoehybrid",
    suits=suits,
    metadata=metadata,
    names={hf_name: name for hf_name, name in NAMES.items() if hf_name not in FEED_FORWARD}
    | {
        f"model.layers.{{}}.shared_mlp.{theirs}": f"blk.{{}}.ffn_{ours}"
        for theirs, ours in SHARED_PARTS.items()
    },
    blocks=(MULTIPLIERS, Block(regrouping=HALVES)),
    sizes=lambda c: {"ff": c.count(SHARED)},
    defaults=granite.DEFAULTS | {SHARED: 1024, "position_embedding_type": "nope"},
    fixed={
        "hidden_act": ("silu", "swish"),
        "attention_bias": (False,),
        "position_embedding_type": ("rope",),
    },
    rotate_half=True,
    reads=frozenset(
        {
            SHARED,
            "layer_types",
            "mamba_chunk_size",
            "mamba_conv_bias",
            "mamba_d_conv",
            "mamba_d_head",
            "mamba_d_state",
            "mamba_expand",
            "mamba_n_groups",
            "mamba_n_heads",
            "mamba_proj_bias",
            "num_experts_per_tok",
            "num_local_experts",
            "output_router_logits",
            "time_step_limit",
        }
    ),
    checks=checks,
)
