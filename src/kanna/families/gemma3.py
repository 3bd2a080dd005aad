"""Gemma 3, the text model: alone, or the language part of the multimodal ones."""

from __future__ import annotations

from typing import Any

from kanna._util.typed import whole
from kanna.families._config import Config
from kanna.families._keys import common
from kanna.families.base import Family, Metadata, Problem
from kanna.families.gemma2 import ACTIVATIONS, GEMMA_NAMES, READS, layer_types, scale_problems
from kanna.model import Model, ValueType, array, f32, u32

ARCH = "gemma3"
PERIOD = 6
"""llama.cpp's own pattern: five layers with a window, one without."""
WIDE = 62
"""Layers of the 27B model.

There llama.cpp scales attention by hidden / heads instead of the head size.
"""


def windows(c: Config) -> list[bool]:
    """For every layer, whether it has a window."""
    return layer_types(c, c.read("sliding_window_pattern", whole(), 0) or PERIOD)


def metadata(c: Config) -> Metadata:
    """The `gemma3.*` keys; the pattern of windows only where it is not llama.cpp's own."""
    keys = common(ARCH, c, head_dim=True)
    if c.get("final_logit_softcapping") is not None:
        keys[f"{ARCH}.final_logit_softcapping"] = f32(c.number("final_logit_softcapping"))
    windowed = windows(c)
    if any(windowed):
        keys[f"{ARCH}.attention.sliding_window"] = u32(c.count("sliding_window"))
        keys[f"{ARCH}.rope.freq_base_swa"] = f32(c.rope("sliding_attention").theta)
        if windowed != [(i + 1) % PERIOD != 0 for i in range(c.layers)]:
            keys[f"{ARCH}.attention.sliding_window_pattern"] = array(windowed, ValueType.BOOL)
    return keys


def checks(c: Config) -> list[Problem]:
    """Problems of the attention scale, which llama.cpp fixes."""
    return scale_problems(c, WIDE)


def to_config(model: Model) -> dict[str, Any]:
    """Config keys of Gemma 3, back from the metadata."""
    layers, heads = (
        model.whole("{arch}.block_count"),
        model.whole("{arch}.attention.head_count", least=1),
    )
    window = model.meta("{arch}.attention.sliding_window")
    pattern = model.meta("{arch}.attention.sliding_window_pattern", PERIOD)
    if isinstance(pattern, int):
        period = pattern or layers + 1  # 0: every layer has the window
        pattern = [(i + 1) % period != 0 for i in range(layers)]
    kinds = [
        "sliding_attention" if windowed and window else "full_attention" for windowed in pattern
    ]
    sliding = [kind == "sliding_attention" for kind in kinds]
    return {
        "hidden_activation": ACTIVATIONS[0],
        "sliding_window": window or 4096,
        "layer_types": kinds,
        **_period(sliding),
        "rope_local_base_freq": model.meta("{arch}.rope.freq_base_swa", 10000.0),
        "final_logit_softcapping": model.meta("{arch}.final_logit_softcapping"),
        "query_pre_attn_scalar": (
            model.whole("{arch}.embedding_length", least=1) // heads
            if layers == WIDE
            else model.meta("{arch}.attention.key_length")
        ),
    }


def _period(sliding: list[bool]) -> dict[str, int]:
    """The pattern as mlx-lm reads it, which knows no layer_types: one layer in so many is full.

    Empty where there is no such number.
    """
    for period in range(1, len(sliding) + 2):
        if sliding == [(i + 1) % period != 0 for i in range(len(sliding))]:
            return {"sliding_window_pattern": period}
    return {}


FAMILY = Family(
    arch=ARCH,
    summary="Gemma 3, the text model: alone, or the language part of the multimodal ones",
    also=(
        "FunctionGemma",
        "MedGemma",
        "TranslateGemma",
    ),
    architectures=("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"),
    model_type="gemma3_text",
    model_types=("gemma3",),
    metadata=metadata,
    names=GEMMA_NAMES
    | {
        "model.layers.{}.self_attn.q_norm": "blk.{}.attn_q_norm",
        "model.layers.{}.self_attn.k_norm": "blk.{}.attn_k_norm",
    },
    defaults={
        "vocab_size": 262208,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-6,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "rope_theta": 1_000_000.0,
        "rope_local_base_freq": 10_000.0,
        "hidden_activation": "gelu_pytorch_tanh",
        "tie_word_embeddings": True,
    },
    fixed={
        "hidden_activation": ACTIVATIONS,
        "attention_bias": (False,),
        "use_bidirectional_attention": (False,),
        "attn_logit_softcapping": (),
    },
    reads=READS
    | {
        "_sliding_window_pattern",
        "boi_token_index",
        "eoi_token_index",
        "image_token_id",
        "image_token_index",
        "mm_tokens_per_image",
        "rope_local_base_freq",
        "sliding_window_pattern",
    },
    sliding=True,
    rope_types=frozenset({"default", "linear"}),
    norm_offset=1.0,
    skipped=(
        r"(model\.)?vision_tower\..*",
        r"(model\.)?multi_modal_projector\..*",
    ),
    # Every Gemma 3 tokenizer has the image token; the text-only models have no row for it.
    surplus=frozenset({"<image_soft_token>"}),
    checks=checks,
    to_config=to_config,
)
