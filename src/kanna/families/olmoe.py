"""OLMoE (1B-7B): norms over all of q and k, and experts in every layer."""

from __future__ import annotations

from kanna.families._config import Config
from kanna.families._keys import common
from kanna.families.base import (
    ATTENTION,
    ENDS,
    PRE_NORMS,
    QK_NORMS,
    Family,
    Metadata,
    Problem,
    derived_head_size,
)
from kanna.families.blocks.experts import experts

ARCH = "olmoe"


def metadata(c: Config) -> Metadata:
    """The `olmoe.*` keys."""
    return common(ARCH, c, head_dim=False)


def checks(c: Config) -> list[Problem]:
    """llama.cpp has as many key-value heads as heads, and derives their size from the width."""
    problems = derived_head_size(c)
    if c.kv_heads != c.heads:
        problems.append(
            Problem(f"config.json has num_key_value_heads = {c.kv_heads}", f"{c.heads}, one a head")
        )
    return problems


FAMILY = Family(
    arch=ARCH,
    summary="OLMoE: 1B-7B",
    architectures=("OlmoeForCausalLM",),
    model_type="olmoe",
    metadata=metadata,
    names=ENDS | PRE_NORMS | ATTENTION | QK_NORMS,
    blocks=(experts(width="intermediate_size"),),
    shapes={"attn_q_norm": ("q",), "attn_k_norm": ("kv",)},
    defaults={
        "vocab_size": 50304,
        "hidden_size": 2048,
        "intermediate_size": 2048,
        "num_hidden_layers": 16,
        "num_attention_heads": 16,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "num_experts": 64,
        "num_experts_per_tok": 8,
    },
    # llama.cpp takes the weights of the chosen experts as they are, and cuts no values.
    fixed={
        "hidden_act": ("silu", "swish"),
        "attention_bias": (False,),
        "norm_topk_prob": (False,),
        "clip_qkv": (None,),
        "tie_word_embeddings": (False,),
    },
    reads=frozenset({"output_router_logits"}),
    checks=checks,
)
