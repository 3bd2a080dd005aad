"""ERNIE 4.5 (dense): a llama whose q and k are stored in the order llama.cpp computes in."""

from __future__ import annotations

from kanna.families._config import Config
from kanna.families._keys import common
from kanna.families.base import Family, Metadata

ARCH = "ernie4_5"


def metadata(c: Config) -> Metadata:
    """The `ernie4_5.*` keys."""
    return common(ARCH, c, head_dim=True)


FAMILY = Family(
    arch=ARCH,
    summary="ERNIE 4.5 (dense): a llama whose rotary pairs are stored side by side",
    architectures=("Ernie4_5ForCausalLM", "Ernie4_5_ForCausalLM"),
    model_type="ernie4_5",
    metadata=metadata,
    defaults={
        "vocab_size": 103424,
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 18,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "head_dim": 128,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500_000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
    },
    fixed={"hidden_act": ("silu", "swish"), "use_bias": (False,)},
    rope_types=frozenset({"default"}),
)
