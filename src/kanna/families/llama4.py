"""Llama 4, the text model: chunks, layers without rotary embedding, one expert and a shared one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from kanna._util.typed import listed, whole
from kanna.families._config import Config
from kanna.families._keys import common
from kanna.families.base import ATTENTION, ENDS, PRE_NORMS, Block, Family, Metadata, Problem
from kanna.families.blocks.expert_stacks import Spelling
from kanna.families.blocks.experts import experts, shared_expert
from kanna.families.llama import extra
from kanna.model import Model, u32

ARCH = "llama4"
STEP, DENSE_WIDTH = "interleave_moe_layer_step", "intermediate_size_mlp"
PERIOD, CHUNK, WITHOUT_QK_NORM = 4, 8192, 128
"""What llama.cpp has in its code: the last of so many layers has no rotary embedding and no chunks;
tokens of a chunk; the number of experts of the model (Maverick) without norms of q and k."""
CHUNKED, FULL = "chunked_attention", "full_attention"
_INSIDE = "model.layers.{}.feed_forward."


def turns(layer: int) -> bool:
    """Whether a layer has a rotary embedding and attends within chunks, as llama.cpp has it."""
    return (layer + 1) % PERIOD != 0


def has_experts(c: Config, layer: int) -> bool:
    """Whether a layer has experts, by the step between those that do."""
    return (layer + 1) % c.count(STEP) == 0


def _is_dense(c: Config, layer: int) -> bool:
    return not has_experts(c, layer)


def metadata(c: Config) -> Metadata:
    """The `llama4.*` keys."""
    return common(ARCH, c, head_dim=True) | {
        f"{ARCH}.vocab_size": u32(c.vocab),
        # llama.cpp has the chunk in its code, but for 0; others learn here what is kept.
        f"{ARCH}.attention.sliding_window": u32(CHUNK),
        f"{ARCH}.feed_forward_length": u32(c.count(DENSE_WIDTH)),
        f"{ARCH}.interleave_moe_layer_step": u32(c.count(STEP)),
        f"{ARCH}.rope.dimension_count": u32(c.head_dim),
    }


def checks(c: Config) -> list[Problem]:
    """What llama.cpp has in its code, config.json must say, in whichever key it does."""
    every = range(c.layers)
    turning = [int(turns(i)) for i in every]
    routed = [i for i in every if has_experts(c, i)]
    norms = c.count("num_local_experts") != WITHOUT_QK_NORM
    kinds = [CHUNKED if turns(i) else FULL for i in every]
    pairs = (
        ("no_rope_layers", c.read("no_rope_layers", listed(whole()), turning) or turning, turning),
        ("moe_layers", c.read("moe_layers", listed(whole()), routed), routed),
        ("layer_types", c.layer_kinds((CHUNKED, FULL)) or kinds, kinds),
        ("use_qk_norm", c.flag("use_qk_norm"), norms),
    )
    return [
        Problem(
            f"config.json has {key} = {value} in a model of {c.layers} layers",
            f"{expected}, which llama.cpp has in its code",
            "no stock runtime computes this model",
        )
        for key, value, expected in pairs
        if value != expected
    ]


def to_config(model: Model) -> dict[str, Any]:
    """Config keys of Llama 4, back from the metadata."""
    layers = range(model.whole("{arch}.block_count", least=1))
    return {
        DENSE_WIDTH: model.whole("{arch}.feed_forward_length", least=1),
        STEP: model.whole("{arch}.interleave_moe_layer_step", 1, least=1),
        "no_rope_layers": [int(turns(i)) for i in layers],
        "layer_types": [CHUNKED if turns(i) else FULL for i in layers],
        "attention_chunk_size": CHUNK,
        "use_qk_norm": model.whole("{arch}.expert_count", least=1) != WITHOUT_QK_NORM,
        "attn_temperature_tuning": True,
    }


EXPERTS = experts(
    Spelling(
        each={},
        gate_up="feed_forward.experts.gate_up_proj",
        down="feed_forward.experts.down_proj",
        router="feed_forward.router",
        fused=True,
        transposed=True,
    ),
    count="num_local_experts",
    width="intermediate_size",
    where=has_experts,
)
# llama.cpp gives the shared expert the width of the others: no key of its own says it.
SHARED = replace(
    shared_expert(
        "feed_forward.shared_expert", gate="", width="intermediate_size", where=has_experts
    ),
    metadata=Block().metadata,
    to_config=Block().to_config,
)

FAMILY = Family(
    arch=ARCH,
    summary="Llama 4, the text model: Scout, Maverick",
    architectures=("Llama4ForCausalLM", "Llama4ForConditionalGeneration"),
    model_type="llama4_text",
    model_types=("llama4",),
    metadata=metadata,
    names=ENDS | PRE_NORMS | ATTENTION,
    blocks=(
        EXPERTS,
        SHARED,
        Block(
            names={
                f"{_INSIDE}{kind}_proj": f"blk.{{}}.ffn_{kind}" for kind in ("gate", "up", "down")
            },
            where=_is_dense,
        ),
    ),
    sizes=lambda c: {"ff": c.count(DENSE_WIDTH)},
    defaults={
        "vocab_size": 202048,
        "hidden_size": 5120,
        "intermediate_size": 8192,
        DENSE_WIDTH: 16384,
        "num_hidden_layers": 48,
        "num_attention_heads": 40,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "num_experts_per_tok": 1,
        "num_local_experts": 16,
        STEP: 1,
        "use_qk_norm": True,
        "attention_chunk_size": CHUNK,
        "attn_temperature_tuning": True,
        "floor_scale": 8192,
        "attn_scale": 0.1,
    },
    fixed={
        "hidden_act": ("silu", "swish"),
        "attention_bias": (False,),
        "attention_chunk_size": (CHUNK,),
        "attn_temperature_tuning": (True, 4),
        "floor_scale": (8192,),
        "attn_scale": (0.1,),
        "no_rope_layer_interval": (PERIOD,),
    },
    reads=frozenset(
        {"layer_types", "moe_layers", "no_rope_layers", "output_router_logits", "use_qk_norm"}
        | {STEP, DENSE_WIDTH}
    ),
    rope_types=frozenset({"default", "llama3"}),
    extra=extra,
    skipped=(r"(model\.)?(vision_model|multi_modal_projector)\..*",),
    checks=checks,
    to_config=to_config,
)
