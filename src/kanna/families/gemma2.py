"""Gemma 2: norms before and after each part, soft-capped logits, a window in every other layer."""

from __future__ import annotations

from typing import Any

from kanna.families._config import Config
from kanna.families._keys import common
from kanna.families.base import NAMES, Family, Metadata, Problem
from kanna.model import Model, f32, u32

ARCH = "gemma2"
WIDE = 46
"""Layers of the 27B model.

There llama.cpp scales attention by hidden / heads instead of the head size.
"""

GEMMA_NAMES = NAMES | {
    "model.layers.{}.post_attention_layernorm": "blk.{}.post_attention_norm",
    "model.layers.{}.pre_feedforward_layernorm": "blk.{}.ffn_norm",
    "model.layers.{}.post_feedforward_layernorm": "blk.{}.post_ffw_norm",
}
READS = frozenset(
    {
        "attn_logit_softcapping",
        "final_logit_softcapping",
        "hidden_act",  # older configs have it beside hidden_activation, which counts
        "layer_types",
        "query_pre_attn_scalar",
        "sliding_window",
    }
)
ACTIVATIONS = ("gelu_pytorch_tanh", "gelu_tanh")


def metadata(c: Config) -> Metadata:
    """The `gemma2.*` keys."""
    return common(ARCH, c, head_dim=True, rope_base=False) | {
        f"{ARCH}.attn_logit_softcapping": f32(c.number("attn_logit_softcapping")),
        f"{ARCH}.final_logit_softcapping": f32(c.number("final_logit_softcapping")),
        f"{ARCH}.attention.sliding_window": u32(c.count("sliding_window")),
    }


def scale_problems(c: Config, wide: int) -> list[Problem]:
    """llama.cpp fixes the attention scale by the number of layers: the config must agree."""
    fixed = c.hidden // c.heads if c.layers == wide else c.head_dim
    scalar = c.number("query_pre_attn_scalar")
    if abs(scalar - fixed) <= 1e-6 * fixed:
        return []
    return [
        Problem(
            f"config.json has query_pre_attn_scalar = {scalar:g}",
            f"{fixed}, which llama.cpp uses for a model of {c.layers} layers",
            "no stock runtime computes this model",
        )
    ]


def layer_types(c: Config, period: int) -> list[bool]:
    """For every layer, whether it looks through the window.

    From layer_types or the pattern's period.
    """
    kinds = c.layer_kinds()
    if kinds is not None:
        return [kind == "sliding_attention" for kind in kinds]
    return [(i + 1) % period != 0 for i in range(c.layers)]


def checks(c: Config) -> list[Problem]:
    """Problems where llama.cpp fixes what the config sets otherwise."""
    problems = scale_problems(c, WIDE)
    if layer_types(c, 2) != [i % 2 == 0 for i in range(c.layers)]:
        problems.append(
            Problem(
                "config.json has another pattern of layer_types",
                "every other layer, from the first",
            )
        )
    if c.rope().theta != 10000.0 or c.rope().kind != "default":
        problems.append(
            Problem("config.json has other rope parameters", "rope_theta 10000 without scaling")
        )
    return problems


def to_config(model: Model) -> dict[str, Any]:
    """Config keys of Gemma 2, back from the metadata."""
    layers, hidden = (
        model.whole("{arch}.block_count"),
        model.whole("{arch}.embedding_length", least=1),
    )
    return {
        "hidden_activation": ACTIVATIONS[0],
        "sliding_window": model.meta("{arch}.attention.sliding_window", 4096),
        "attn_logit_softcapping": model.meta("{arch}.attn_logit_softcapping", 50.0),
        "final_logit_softcapping": model.meta("{arch}.final_logit_softcapping", 30.0),
        "query_pre_attn_scalar": (
            hidden // model.whole("{arch}.attention.head_count", least=1)
            if layers == WIDE
            else model.meta("{arch}.attention.key_length")
        ),
    }


FAMILY = Family(
    arch=ARCH,
    summary=(
        "Gemma 2: norms before and after each part, soft-capped logits, a window in every other "
        "layer"
    ),
    also=("ShieldGemma",),
    architectures=("Gemma2ForCausalLM",),
    model_type="gemma2",
    metadata=metadata,
    names=GEMMA_NAMES,
    defaults={
        "vocab_size": 256000,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-6,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "hidden_activation": "gelu_pytorch_tanh",
        "tie_word_embeddings": True,
    },
    fixed={
        "hidden_activation": ACTIVATIONS,
        "attention_bias": (False,),
        "tie_word_embeddings": (True,),
        "use_bidirectional_attention": (False,),
    },
    reads=READS,
    rope_types=frozenset({"default"}),
    norm_offset=1.0,
    checks=checks,
    to_config=to_config,
)
