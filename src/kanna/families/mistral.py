"""Mistral 7B and Nemo. In GGUF they are `llama`: the computation is the same."""

from __future__ import annotations

from kanna.families import llama
from kanna.families._config import Config
from kanna.families.base import Family, Problem


def checks(c: Config) -> list[Problem]:
    """llama.cpp's `llama` has no sliding window: beyond it the two runtimes see different text."""
    window = c.window
    if window is None or window >= c.context:
        return []
    return [
        Problem(
            f"the model attends to the last {window} tokens; llama.cpp attends to all",
            todo=f"results are the same up to {window} tokens of context",
            fatal=False,
        )
    ]


FAMILY = Family(
    arch=llama.ARCH,
    summary="Mistral 7B and Nemo",
    also=(
        "Mathstral",
        "Codestral",
        "Mistral Small 3",
        "Zephyr 7B",
    ),
    architectures=("MistralForCausalLM",),
    model_type="mistral",
    metadata=llama.metadata,
    defaults={
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "sliding_window": 4096,
        "tie_word_embeddings": False,
    },
    fixed={"hidden_act": ("silu", "swish")},
    reads=frozenset({"sliding_window"}),
    rope_types=frozenset({"default", "linear", "yarn", "llama3"}),
    rotate_half=True,
    extra=llama.extra,
    checks=checks,
)
