"""Qwen1.5 and Qwen2 with experts (A2.7B, 57B-A14B): a shared expert with a gate beside them."""

from __future__ import annotations

from kanna.families import qwen2
from kanna.families._config import Config
from kanna.families._keys import common
from kanna.families.base import ATTENTION, ENDS, PRE_NORMS, Family, Metadata
from kanna.families.blocks.experts import experts, shared_expert

ARCH = "qwen2moe"


def metadata(c: Config) -> Metadata:
    """The `qwen2moe.*` keys."""
    return common(ARCH, c)


FAMILY = Family(
    arch=ARCH,
    summary="Qwen1.5 and Qwen2 with experts: A2.7B, 57B-A14B",
    architectures=("Qwen2MoeForCausalLM",),
    model_type="qwen2_moe",
    metadata=metadata,
    names=ENDS | PRE_NORMS | ATTENTION,
    blocks=(experts(), shared_expert()),
    biases=frozenset({"attn_q", "attn_k", "attn_v"}),
    defaults=qwen2.DEFAULTS
    | {
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "num_experts": 60,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 1408,
        "shared_expert_intermediate_size": 5632,
        "norm_topk_prob": False,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    },
    # llama.cpp takes the weights of the chosen experts as they are, and has experts in every layer.
    fixed={
        "hidden_act": ("silu", "swish"),
        "norm_topk_prob": (False,),
        "decoder_sparse_step": (1,),
        "mlp_only_layers": ([],),
        "qkv_bias": (True,),
    },
    reads=qwen2.READS | {"output_router_logits"},
    checks=qwen2.checks,
    to_config=lambda _: {"norm_topk_prob": False},
)
