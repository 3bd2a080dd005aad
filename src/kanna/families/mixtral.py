"""Mixtral: a llama whose layers route each token to two of eight experts."""

from __future__ import annotations

from typing import Any

from kanna.families import llama, mistral
from kanna.families._config import Config
from kanna.families.base import ATTENTION, ENDS, PRE_NORMS, Family, Metadata
from kanna.families.blocks.experts import experts, swiglu_spelling

DEFAULTS: dict[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e6,
    "tie_word_embeddings": False,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
}


def metadata(c: Config) -> Metadata:
    """The `llama.*` keys."""
    return llama.metadata(c)


FAMILY = Family(
    arch=llama.ARCH,
    signature="ffn_gate_exps",
    summary="Mixtral: a llama whose layers route each token to two of eight experts",
    also=("Nous Hermes 2 Mixtral",),
    architectures=("MixtralForCausalLM",),
    model_type="mixtral",
    metadata=metadata,
    names=ENDS | PRE_NORMS | ATTENTION,
    blocks=(
        experts(
            swiglu_spelling("block_sparse_moe"),
            count="num_local_experts",
            width="intermediate_size",
        ),
    ),
    defaults=DEFAULTS,
    fixed={"hidden_act": ("silu", "swish")},
    rotate_half=True,
    reads=frozenset({"output_router_logits", "sliding_window"}),
    checks=mistral.FAMILY.checks,
)
