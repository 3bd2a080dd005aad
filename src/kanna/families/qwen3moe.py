"""Qwen3 with experts: 30B-A3B, Coder; every layer routes each token to a few of many experts."""

from __future__ import annotations

from kanna.families import qwen2
from kanna.families._config import Config
from kanna.families._keys import common
from kanna.families.base import ATTENTION, ENDS, PRE_NORMS, QK_NORMS, Family, Metadata
from kanna.families.blocks.experts import experts

ARCH = "qwen3moe"


def metadata(c: Config) -> Metadata:
    """The `qwen3moe.*` keys."""
    return common(ARCH, c, head_dim=True)


FAMILY = Family(
    arch=ARCH,
    summary="Qwen3 with experts: 30B-A3B, Coder",
    also=(
        "Qwen3-Coder-30B-A3B",
        "Tongyi DeepResearch",
    ),
    architectures=("Qwen3MoeForCausalLM",),
    model_type="qwen3_moe",
    metadata=metadata,
    names=ENDS | PRE_NORMS | ATTENTION | QK_NORMS,
    blocks=(experts(),),
    optional=frozenset({"attn_q.bias", "attn_k.bias", "attn_v.bias"}),
    defaults=qwen2.DEFAULTS
    | {
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 24,
        "num_key_value_heads": 4,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 768,
        "norm_topk_prob": False,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    },
    # llama.cpp normalises the weights of the chosen experts, and has experts in every layer.
    fixed={
        "hidden_act": ("silu", "swish"),
        "norm_topk_prob": (True,),
        "decoder_sparse_step": (1,),
        "mlp_only_layers": ([],),
    },
    reads=qwen2.READS | {"output_router_logits"},
    bias_flags={"attention_bias": ("attn_q", "attn_k", "attn_v")},
    checks=qwen2.checks,
    to_config=lambda _: {"norm_topk_prob": True},
)
