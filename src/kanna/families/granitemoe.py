"""Granite 3 with experts (1B-A400M, 3B-A800M), with a shared one or without."""

from __future__ import annotations

from typing import Any

from kanna._util.typed import whole
from kanna.families import granite
from kanna.families._config import Config
from kanna.families.base import (
    ATTENTION,
    ENDS,
    PRE_NORMS,
    Block,
    Family,
    Metadata,
    derived_head_size,
)
from kanna.families.blocks.expert_stacks import Spelling
from kanna.families.blocks.experts import experts
from kanna.families.blocks.halves import Halves
from kanna.families.blocks.multipliers import MULTIPLIERS
from kanna.model import Model, u32

ARCH = "granitemoe"
SHARED = "shared_intermediate_size"
SPELLING = Spelling(
    each={},
    gate_up="block_sparse_moe.input_linear.weight",
    down="block_sparse_moe.output_linear.weight",
    router="block_sparse_moe.router.layer",
    fused=True,
)
HALVES = Halves("shared_mlp.input_linear.weight", "shared_mlp.gate.weight", "shared_mlp.up.weight")
SHARED_PARTS = {"gate": "gate", "up": "up", "output_linear": "down"}
"""Parts of the shared expert: in a checkpoint, with its first matrix in halves → in GGUF."""


def has_shared(c: Config) -> bool:
    """Whether every token passes a further expert."""
    return c.read(SHARED, whole(), 0) > 0


def _shared_names(c: Config) -> dict[str, str]:
    return {
        f"model.layers.{i}.shared_mlp.{theirs}": f"blk.{i}.ffn_{ours}_shexp"
        for i in range(c.layers)
        for theirs, ours in SHARED_PARTS.items()
    }


def _shared_metadata(arch: str, c: Config) -> Metadata:
    return {f"{arch}.expert_shared_feed_forward_length": u32(c.count(SHARED))}


SHARED_EXPERT = Block(
    more_names=_shared_names,
    shapes={
        "ffn_gate_shexp": ("shared_ff", "hidden"),
        "ffn_up_shexp": ("shared_ff", "hidden"),
        "ffn_down_shexp": ("hidden", "shared_ff"),
    },
    present=has_shared,
    sizes=lambda c: {"shared_ff": c.count(SHARED)},
    metadata=_shared_metadata,
    regrouping=HALVES,
    reads=frozenset({SHARED}),
)


def metadata(c: Config) -> Metadata:
    """The `granitemoe.*` keys."""
    return granite.metadata(c, ARCH)


def to_config(model: Model) -> dict[str, Any]:
    """The class: one with a shared expert has another name."""
    width = model.whole("{arch}.expert_shared_feed_forward_length", 0)
    if not width:
        return {}
    return {
        "architectures": ["GraniteMoeSharedForCausalLM"],
        "model_type": "granitemoeshared",
        SHARED: width,
    }


FAMILY = Family(
    arch=ARCH,
    summary="Granite 3 with experts: 1B-A400M, 3B-A800M",
    architectures=("GraniteMoeForCausalLM", "GraniteMoeSharedForCausalLM"),
    model_type="granitemoe",
    model_types=("granitemoeshared",),
    metadata=metadata,
    names=ENDS | PRE_NORMS | ATTENTION,
    blocks=(
        MULTIPLIERS,
        experts(SPELLING, count="num_local_experts", width="intermediate_size"),
        SHARED_EXPERT,
    ),
    defaults=granite.DEFAULTS | {"num_local_experts": 8, "num_experts_per_tok": 2},
    fixed={"hidden_act": ("silu", "swish"), "attention_bias": (False,)},
    rotate_half=True,
    reads=frozenset({"output_router_logits"}),
    checks=derived_head_size,
    to_config=to_config,
)
