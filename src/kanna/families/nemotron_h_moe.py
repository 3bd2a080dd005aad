"""Nemotron 3 (Nano 30B-A3B): Nemotron-H whose feed-forward layers have experts without gates."""

from __future__ import annotations

from typing import Any

from kanna.families import nemotron_h
from kanna.families._config import Config
from kanna.families._stored_rope import short
from kanna.families.base import Block, Family, Metadata
from kanna.families.blocks.expert_stacks import Spelling
from kanna.families.blocks.experts import experts, selection_bias
from kanna.model import Model, boolean, f32, u32

ARCH = "nemotron_h_moe"
SHARED = "moe_shared_expert_intermediate_size"


def _routes(c: Config, layer: int) -> bool:
    return nemotron_h.kinds(c)[layer] == nemotron_h.EXPERTS


def metadata(c: Config) -> Metadata:
    """The `nemotron_h_moe.*` keys."""
    return nemotron_h.keys(ARCH, c, c.count("moe_intermediate_size")) | {
        f"{ARCH}.expert_shared_feed_forward_length": u32(c.count(SHARED)),
        f"{ARCH}.expert_shared_count": u32(c.count("n_shared_experts")),
        f"{ARCH}.expert_weights_norm": boolean(c.flag("norm_topk_prob")),
        f"{ARCH}.expert_weights_scale": f32(c.number("routed_scaling_factor")),
        f"{ARCH}.expert_group_count": u32(c.count("n_group")),
    }


def to_config(model: Model) -> dict[str, Any]:
    """Config keys of Nemotron 3, back from the metadata."""
    keys = nemotron_h.to_config(model)
    del keys["intermediate_size"]
    return keys | {
        SHARED: model.whole("{arch}.expert_shared_feed_forward_length", least=1),
        "n_shared_experts": model.whole("{arch}.expert_shared_count", 1),
        "norm_topk_prob": bool(model.meta("{arch}.expert_weights_norm", True)),
        "routed_scaling_factor": short(model.meta("{arch}.expert_weights_scale", 1.0)),
    }


FAMILY = Family(
    arch=ARCH,
    summary="Nemotron 3: Nano 30B-A3B",
    architectures=("NemotronHForCausalLM",),
    model_type="nemotron_h",
    suits=nemotron_h.has_experts,
    metadata=metadata,
    names=nemotron_h.NAMES,
    blocks=(
        *nemotron_h.LAYERS[:2],
        experts(
            Spelling(
                each={
                    kind: f"mixer.experts.{{expert}}.{kind}_proj.weight" for kind in ("up", "down")
                },
                gate_up="mixer.experts.up_proj",
                down="mixer.experts.down_proj",
                router="mixer.gate",
                gated=False,
            ),
            count="n_routed_experts",
            where=_routes,
        ),
        selection_bias("mixer.gate.e_score_correction_bias", _routes),
        Block(
            names={
                "model.layers.{}.mixer.shared_experts.up_proj": "blk.{}.ffn_up_shexp",
                "model.layers.{}.mixer.shared_experts.down_proj": "blk.{}.ffn_down_shexp",
            },
            shapes={
                "ffn_up_shexp": ("shared_ff", "hidden"),
                "ffn_down_shexp": ("hidden", "shared_ff"),
            },
            sizes=lambda c: {"shared_ff": c.count(SHARED)},
            where=_routes,
        ),
    ),
    biases=nemotron_h.CONVOLUTION_BIAS,
    defaults=nemotron_h.DEFAULTS
    | {
        "moe_intermediate_size": 7688,
        SHARED: 7688,
        "n_group": 1,
        "n_routed_experts": 8,
        "n_shared_experts": 1,
        "norm_topk_prob": True,
        "num_experts_per_tok": 2,
        "routed_scaling_factor": 1.0,
        "topk_group": 1,
    },
    # llama.cpp has no latent width of experts here that was proved, and chooses among all of them.
    fixed=nemotron_h.FIXED | {"moe_latent_size": (), "n_group": (1,), "topk_group": (1,)},
    reads=nemotron_h.READS,
    rope_types=frozenset(),
    respell=nemotron_h.respell,
    to_config=to_config,
)
