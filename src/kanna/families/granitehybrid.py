"""Granite 4: Mamba 2 in most layers, attention in the others; experts or one feed-forward part."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from kanna._util.typed import whole
from kanna.families import granite, granite4
from kanna.families._config import Config
from kanna.families.base import (
    ATTENTION,
    ENDS,
    PRE_NORMS,
    Block,
    Family,
    Metadata,
    Problem,
    derived_head_size,
)
from kanna.families.blocks.experts import experts
from kanna.families.blocks.mamba2 import CONVOLUTION_BIAS, Mamba2, mamba2
from kanna.families.blocks.multipliers import MULTIPLIERS
from kanna.families.granitemoe import HALVES, SHARED, SHARED_EXPERT, SHARED_PARTS, SPELLING
from kanna.model import Model, ValueType, array, boolean, u32

ARCH = "granitehybrid"
KINDS = (*granite4.ATTENDS, "mamba", "linear_attention")


def _has_experts(c: Config) -> bool:
    return c.read("num_local_experts", whole(), 0) > 0


EXPERTS = experts(
    SPELLING, count="num_local_experts", width="intermediate_size", present=_has_experts
)


def is_attention(c: Config, layer: int) -> bool:
    """Whether a layer attends."""
    kinds = c.layer_kinds(KINDS)
    return kinds is not None and kinds[layer] in granite4.ATTENDS


def _is_recurrent(c: Config, layer: int) -> bool:
    return not is_attention(c, layer)


def _is_dense(c: Config) -> bool:
    return not _has_experts(c)


def _dense_names(c: Config) -> dict[str, str]:
    return {
        f"model.layers.{i}.shared_mlp.{theirs}": f"blk.{i}.ffn_{ours}"
        for i in range(c.layers)
        for theirs, ours in SHARED_PARTS.items()
    }


def _rotates(c: Config) -> bool:
    return c.get("position_embedding_type") == "rope"


def metadata(c: Config) -> Metadata:
    """The `granitehybrid.*` keys: key-value heads are 0 in layers with a state."""
    heads = [c.kv_heads if is_attention(c, layer) else 0 for layer in range(c.layers)]
    keys = granite.metadata(c, ARCH) | {
        f"{ARCH}.attention.head_count_kv": array(heads, ValueType.I32),
        # llama.cpp turns queries and keys where this says so.
        f"{ARCH}.rope.scaling.finetuned": boolean(_rotates(c)),
    }
    if _is_dense(c):
        keys[f"{ARCH}.feed_forward_length"] = u32(c.count(SHARED))
    return keys


def checks(c: Config) -> list[Problem]:
    """llama.cpp has states twice as wide as the model."""
    problems = derived_head_size(c)
    if all(is_attention(c, layer) for layer in range(c.layers)):
        problems.append(
            Problem(
                "config.json has experts, and attention in every layer",
                "layers with a state among them",
                "no stock runtime was proved on this model",
            )
        )
    inner = c.count("mamba_n_heads") * c.count("mamba_d_head")
    if inner != 2 * c.hidden:
        problems.append(
            Problem(
                f"config.json has mamba_n_heads × mamba_d_head = {inner}",
                f"{2 * c.hidden}, twice hidden_size",
                "no stock runtime computes this model",
            )
        )
    return problems


def to_config(model: Model) -> dict[str, Any]:
    """Config keys of Granite 4, back from the metadata."""
    heads = list(model.meta("{arch}.attention.head_count_kv"))
    shared = model.whole("{arch}.expert_shared_feed_forward_length", 0)
    rotates = model.meta("{arch}.rope.scaling.finetuned", True)
    return {
        "layer_types": ["attention" if n else "mamba" for n in heads],
        "num_local_experts": model.whole("{arch}.expert_count", 0),
        SHARED: shared or model.whole("{arch}.feed_forward_length", least=1),
        "position_embedding_type": "rope" if rotates else "nope",
        "mamba_expand": 2,
        "mamba_conv_bias": True,
        "mamba_proj_bias": False,
    }


FAMILY = Family(
    arch=ARCH,
    summary="Granite 4: Mamba 2 in most layers, attention in the others; dense or with experts",
    architectures=("GraniteMoeHybridForCausalLM",),
    model_type="granitemoehybrid",
    suits=lambda config: not granite4.suits(config),
    metadata=metadata,
    names=ENDS | PRE_NORMS,
    blocks=(
        MULTIPLIERS,
        Block(names=ATTENTION, where=is_attention),
        mamba2("mamba", _is_recurrent, Mamba2()),
        EXPERTS,
        Block(
            more_names=_dense_names,
            present=_is_dense,
            sizes=lambda c: {"ff": c.count(SHARED)},
            regrouping=HALVES,
        ),
        replace(SHARED_EXPERT, present=_has_experts),
    ),
    biases=CONVOLUTION_BIAS,
    defaults=granite.DEFAULTS
    | {
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "shared_intermediate_size": 1024,
        "mamba_n_heads": 128,
        "mamba_n_groups": 1,
        "mamba_d_state": 256,
        "mamba_d_conv": 4,
        "mamba_expand": 2,
        "position_embedding_type": "nope",
    },
    fixed={
        "hidden_act": ("silu", "swish"),
        "attention_bias": (False,),
        "mamba_proj_bias": (False,),
        "mamba_conv_bias": (True,),
        "mamba_expand": (2,),
        "position_embedding_type": ("nope", "rope"),
    },
    rotate_half=True,
    reads=frozenset({"layer_types", "mamba_chunk_size", "output_router_logits", "time_step_limit"}),
    checks=checks,
    to_config=to_config,
)
