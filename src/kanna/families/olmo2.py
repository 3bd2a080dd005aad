"""OLMo 2 and 3: norms after each part and over all of q and k; OLMo 3 has windows."""

from __future__ import annotations

from typing import Any

from kanna.families._config import Config
from kanna.families._keys import common
from kanna.families._stored_rope import scaling, short
from kanna.families.base import (
    ATTENTION,
    ENDS,
    FEED_FORWARD,
    QK_NORMS,
    Family,
    Metadata,
    Problem,
    derived_head_size,
)
from kanna.model import Model, ValueType, array, f32, u32

ARCH = "olmo2"
PERIOD = 4
"""Where config.json names no layer_types, the last of so many layers has no window."""
POST_NORMS = {
    "model.layers.{}.post_attention_layernorm": "blk.{}.post_attention_norm",
    "model.layers.{}.post_feedforward_layernorm": "blk.{}.post_ffw_norm",
}


def _windows(c: Config) -> list[bool]:
    """For every layer, whether it has a window; OLMo 2 has none."""
    if c.get("model_type") != "olmo3" or c.window is None:
        return []
    kinds = c.layer_kinds()
    if kinds is not None:
        return [kind == "sliding_attention" for kind in kinds]
    return [(i + 1) % PERIOD != 0 for i in range(c.layers)]


def metadata(c: Config) -> Metadata:
    """The `olmo2.*` keys."""
    keys = common(ARCH, c, head_dim=False)
    if windows := _windows(c):
        keys[f"{ARCH}.attention.sliding_window"] = u32(c.count("sliding_window"))
        keys[f"{ARCH}.attention.sliding_window_pattern"] = array(windows, ValueType.BOOL)
        keys[f"{ARCH}.rope.freq_base_swa"] = f32(c.rope("sliding_attention").theta)
    return keys


def checks(c: Config) -> list[Problem]:
    """llama.cpp takes one base for both kinds of layers, and the head size from the width."""
    problems: list[Problem] = []
    if _windows(c) and c.rope().theta != c.rope("sliding_attention").theta:
        problems.append(Problem("config.json has two values of rope_theta", "one for all layers"))
    return problems + derived_head_size(c)


def to_config(model: Model) -> dict[str, Any]:
    """Config keys of OLMo 3, whose files have windows; OLMo 2 has none of its own."""
    window = model.whole("{arch}.attention.sliding_window", 0)
    if not window:
        return {}
    pattern = model.meta("{arch}.attention.sliding_window_pattern")
    kinds = ["sliding_attention" if windowed else "full_attention" for windowed in pattern]
    theta = {"rope_theta": short(model.meta("{arch}.rope.freq_base"))}
    full = scaling(model) or {"rope_type": "default"}
    return {
        "architectures": ["Olmo3ForCausalLM"],
        "model_type": "olmo3",
        "sliding_window": window,
        "layer_types": kinds,
        "rope_scaling": None,
        "rope_parameters": {
            "full_attention": theta | full,
            "sliding_attention": theta | {"rope_type": "default"},
        },
    }


FAMILY = Family(
    arch=ARCH,
    summary="OLMo 2 and 3: norms after each part and over all of q and k; OLMo 3 has windows",
    architectures=("Olmo2ForCausalLM", "Olmo3ForCausalLM"),
    model_type="olmo2",
    model_types=("olmo3",),
    metadata=metadata,
    names=ENDS | ATTENTION | QK_NORMS | POST_NORMS | FEED_FORWARD,
    shapes={"attn_q_norm": ("q",), "attn_k_norm": ("kv",)},
    defaults={
        "vocab_size": 50304,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
    },
    fixed={
        "hidden_act": ("silu", "swish"),
        "attention_bias": (False,),
        "tie_word_embeddings": (False,),
    },
    reads=frozenset({"layer_types", "sliding_window", "rope_local_base_freq"}),
    sliding=True,
    checks=checks,
    to_config=to_config,
)
