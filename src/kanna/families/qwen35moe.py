"""Qwen3.5, 3.6 and 3.8 with experts: delta nets, gated attention, routed and shared experts."""

from __future__ import annotations

from typing import Any

from kanna.families import qwen35
from kanna.families._config import Config
from kanna.families.base import ENDS, Block, Family, Metadata
from kanna.families.blocks.delta_net import DELTA_NET, is_full_attention
from kanna.families.blocks.expert_stacks import QWEN, Spelling
from kanna.families.blocks.experts import experts, shared_expert
from kanna.families.blocks.next_tokens import next_tokens

ARCH = "qwen35moe"
EXPERTS = experts(Spelling(each=QWEN.each, fused=True))
SHARED = shared_expert()


def metadata(c: Config) -> Metadata:
    """The `qwen35moe.*` keys."""
    return qwen35.metadata(c, ARCH)


DEFAULTS: dict[str, Any] = qwen35.DEFAULTS | {
    "hidden_size": 2048,
    "num_hidden_layers": 40,
    "num_key_value_heads": 2,
    "num_experts": 256,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512,
}
del DEFAULTS["intermediate_size"]

FAMILY = Family(
    arch=ARCH,
    summary="Qwen3.5, 3.6 and 3.8 with experts: 35B-A3B, 122B-A10B",
    architectures=("Qwen3_5MoeForCausalLM", "Qwen3_5MoeForConditionalGeneration"),
    model_type="qwen3_5_moe_text",
    model_types=("qwen3_5_moe",),
    metadata=metadata,
    names=ENDS | qwen35.NORMS,
    blocks=(
        Block(
            names=qwen35.ATTENTION_LAYER,
            shapes={"attn_q": ("2q", "hidden")},
            where=is_full_attention,
        ),
        DELTA_NET,
        EXPERTS,
        SHARED,
        next_tokens(
            {
                **qwen35.NORMS,
                **qwen35.ATTENTION_LAYER,
                **EXPERTS.names,
                **EXPERTS.tensors,
                **SHARED.names,
            }
        ),
    ),
    sizes=qwen35.sizes,
    defaults=DEFAULTS,
    fixed=qwen35.FIXED,
    reads=qwen35.READS | {"output_router_logits"},
    rope_types=frozenset({"default"}),
    rope_reads=qwen35.ROPE_READS,
    norm_offset=1.0,
    skipped=qwen35.SKIPPED,
    checks=qwen35.checks,
    to_config=qwen35.to_config,
)
