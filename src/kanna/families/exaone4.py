"""EXAONE 4: norms after each part; the 32B has windows, and no rotary embedding without one."""

from __future__ import annotations

from typing import Any

from kanna.families import llama
from kanna.families._config import Config
from kanna.families._keys import common
from kanna.families.base import ATTENTION, ENDS, FEED_FORWARD, QK_NORMS, Family, Metadata, Problem
from kanna.families.olmo2 import POST_NORMS
from kanna.model import Model, ValueType, array, u32

ARCH = "exaone4"
WINDOWED = 64
"""Layers of the 32B model, the only one for which llama.cpp computes windows."""


def windows(c: Config) -> list[bool]:
    """For every layer, whether it has a window, from layer_types or the pattern."""
    kinds = c.layer_kinds()
    if c.window is None:
        return [False] * c.layers
    if kinds is not None:
        return [kind == "sliding_attention" for kind in kinds]
    pattern = c.get("sliding_window_pattern") or 4
    if isinstance(pattern, str):
        return [pattern[i % len(pattern)] == "L" for i in range(c.layers)]
    return [(i + 1) % c.count("sliding_window_pattern") != 0 for i in range(c.layers)]


def metadata(c: Config) -> Metadata:
    """The `exaone4.*` keys."""
    keys = common(ARCH, c, head_dim=False) | {f"{ARCH}.vocab_size": u32(c.vocab)}
    if any(windows(c)):
        keys[f"{ARCH}.attention.sliding_window"] = u32(c.count("sliding_window"))
        keys[f"{ARCH}.attention.sliding_window_pattern"] = array(windows(c), ValueType.BOOL)
    return keys


def checks(c: Config) -> list[Problem]:
    """llama.cpp has windows in a model of 64 layers alone."""
    if any(windows(c)) == (c.layers == WINDOWED):
        return []
    return [
        Problem(
            f"config.json has {c.layers} layers {'with' if any(windows(c)) else 'without'} windows",
            f"windows in a model of {WINDOWED} layers alone, as llama.cpp computes it",
            "no stock runtime computes this model",
        )
    ]


def to_config(model: Model) -> dict[str, Any]:
    """Config keys of EXAONE 4 alone."""
    pattern = model.meta("{arch}.attention.sliding_window_pattern")
    layers = model.whole("{arch}.block_count")
    kinds = ["sliding_attention" if w else "full_attention" for w in pattern or [False] * layers]
    window = model.whole("{arch}.attention.sliding_window", 0) or None
    return {"sliding_window": window, "sliding_window_pattern": None, "layer_types": kinds}


FAMILY = Family(
    arch=ARCH,
    summary="EXAONE 4: norms after each part; the 32B has windows",
    architectures=("Exaone4ForCausalLM",),
    model_type="exaone4",
    metadata=metadata,
    names=ENDS | ATTENTION | QK_NORMS | POST_NORMS | FEED_FORWARD,
    defaults={
        "vocab_size": 102400,
        "hidden_size": 4096,
        "intermediate_size": 16384,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "sliding_window": 4096,
        "sliding_window_pattern": 4,
        "tie_word_embeddings": False,
    },
    fixed={"hidden_act": ("silu", "swish")},
    reads=frozenset({"layer_types", "sliding_window", "sliding_window_pattern"}),
    rope_types=frozenset({"default", "llama3"}),
    extra=llama.extra,
    checks=checks,
    to_config=to_config,
)
