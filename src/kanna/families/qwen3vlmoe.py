"""Qwen3-VL with experts, its model of text: Qwen3 with experts and positions of three numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from kanna.families import qwen3moe, qwen3vl
from kanna.families._config import Config
from kanna.families.base import ATTENTION, ENDS, PRE_NORMS, QK_NORMS, Family, Metadata
from kanna.families.blocks.expert_stacks import QWEN, StacksOfEitherOrder
from kanna.families.blocks.experts import experts
from kanna.model import Model

ARCH = "qwen3vlmoe"
# Published with columns before rows, and saved by transformers with rows before columns.
EXPERTS = replace(
    experts(), regrouping=StacksOfEitherOrder(QWEN, "num_experts", "moe_intermediate_size")
)


def metadata(c: Config) -> Metadata:
    """The `qwen3vlmoe.*` keys."""
    return qwen3vl.metadata(c, ARCH)


def to_config(model: Model) -> dict[str, Any]:
    """Of the text alone Qwen3's with experts: three positions that are the same are one."""
    return dict(qwen3moe.FAMILY.to_config(model)) | {
        "architectures": [qwen3moe.FAMILY.architectures[0]],
        "model_type": qwen3moe.FAMILY.model_type,
    }


FAMILY = Family(
    arch=ARCH,
    summary="Qwen3-VL with experts, its model of text: 30B-A3B, 235B-A22B",
    architectures=("Qwen3VLMoeForConditionalGeneration",),
    model_type="qwen3_vl_moe_text",
    model_types=("qwen3_vl_moe",),
    metadata=metadata,
    names=ENDS | PRE_NORMS | ATTENTION | QK_NORMS,
    blocks=(EXPERTS,),
    optional=qwen3moe.FAMILY.optional,
    defaults=dict(qwen3moe.FAMILY.defaults)
    | {
        "num_key_value_heads": 16,
        "num_attention_heads": 16,
        "num_experts": 60,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 1408,
        "norm_topk_prob": True,
        "rope_theta": 5e5,
    },
    fixed=qwen3moe.FAMILY.fixed,
    bias_flags=qwen3moe.FAMILY.bias_flags,
    reads=qwen3moe.FAMILY.reads | qwen3vl.READS,
    rope_types=frozenset({"default"}),
    rope_reads=qwen3vl.ROPE_READS,
    skipped=qwen3vl.SKIPPED,
    checks=qwen3vl.checks,
    to_config=to_config,
)
