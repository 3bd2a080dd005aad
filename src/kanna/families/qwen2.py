"""Qwen2 and Qwen2.5: q, k and v have biases."""

from __future__ import annotations

from kanna._util.typed import whole
from kanna.families._config import Config
from kanna.families._keys import common
from kanna.families.base import Family, Metadata, Problem

ARCH = "qwen2"

DEFAULTS = {
    "vocab_size": 151936,
    "hidden_size": 4096,
    "intermediate_size": 22016,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "sliding_window": 4096,
    "tie_word_embeddings": False,
}


READS = frozenset({"use_sliding_window", "sliding_window", "max_window_layers", "layer_types"})


def metadata(c: Config) -> Metadata:
    """The `qwen2.*` keys."""
    return common(ARCH, c)


def checks(c: Config) -> list[Problem]:
    """A sliding window in the upper layers is not in llama.cpp's graph of this architecture."""
    window, kinds = c.window, c.layer_kinds()
    if not c.flag("use_sliding_window") or window is None:
        return []
    if kinds is None:
        first = c.read("max_window_layers", whole(), 28)
        kinds = ["sliding_attention" if i >= first else "full_attention" for i in range(c.layers)]
    if "sliding_attention" not in kinds:
        return []
    return [
        Problem(
            f"some layers attend to the last {window} tokens; llama.cpp attends to all",
            todo=f"results are the same up to {window} tokens of context",
            fatal=False,
        )
    ]


FAMILY = Family(
    arch=ARCH,
    summary="Qwen2 and Qwen2.5: q, k and v have biases",
    also=(
        "DeepSeek-R1-Distill-Qwen",
        "Qwen2.5-Coder",
        "Qwen2.5-Math",
        "QwQ",
    ),
    architectures=("Qwen2ForCausalLM",),
    model_type="qwen2",
    metadata=metadata,
    biases=frozenset({"attn_q", "attn_k", "attn_v"}),
    defaults=DEFAULTS,
    fixed={"hidden_act": ("silu", "swish")},
    reads=READS,
    checks=checks,
)
