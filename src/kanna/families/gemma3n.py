"""Gemma 3n, the text model: alternating updates, low-rank residuals, sparse activations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from kanna._util.typed import listed, number, whole
from kanna.families._config import Config
from kanna.families._keys import common
from kanna.families._stored_rope import short
from kanna.families.base import NAMES, QK_NORMS, Block, Family, Metadata, Problem
from kanna.families.blocks.altup import ALTUP
from kanna.families.blocks.per_layer_embeddings import PER_LAYER_EMBEDDINGS, WIDTH
from kanna.families.forms import FirstRowRepeated
from kanna.families.gemma2 import ACTIVATIONS, GEMMA_NAMES, layer_types
from kanna.model import F32, Model, ValueType, array, f32, u32

ARCH = "gemma3n"
PERIOD, SPARSE_LAYERS, SPARSITY, OWN_KEYS, RANK = 5, 10, 0.95, 20, 64
"""What llama.cpp has in its code: one layer in so many sees everything; so many layers of sparse
activations, and how sparse; layers with keys of their own; the rank of the residual (laurel)."""
_SPARSITY_SCALE = 1.6448533535003662
"""Standard deviations above the mean beyond which 5 % of a normal distribution lie (float32)."""
SPARSE = "activation_sparsity_pattern"


def _shared(layers: int) -> int:
    """Layers at the end that read keys and values of those before them, as llama.cpp has it."""
    return max(layers - OWN_KEYS, 0)


def _sparse(layers: int) -> list[float]:
    """How sparse the activations of each layer are, as llama.cpp has it."""
    return [SPARSITY if i < SPARSE_LAYERS else 0.0 for i in range(layers)]


def _windowed(layers: int) -> list[bool]:
    """Whether each layer sees a window alone, as llama.cpp has it."""
    return [(i + 1) % PERIOD != 0 for i in range(layers)]


def metadata(c: Config) -> Metadata:
    """The `gemma3n.*` keys."""
    scales = [_SPARSITY_SCALE if part else float("-inf") for part in _sparse(c.layers)]
    return common(ARCH, c, head_dim=True) | {
        f"{ARCH}.attention.sliding_window": u32(c.count("sliding_window")),
        f"{ARCH}.attention.sliding_window_pattern": array(layer_types(c, PERIOD), ValueType.BOOL),
        f"{ARCH}.attention.shared_kv_layers": u32(_shared(c.layers)),
        f"{ARCH}.activation_sparsity_scale": array(scales, ValueType.F32),
        f"{ARCH}.rope.freq_base_swa": f32(c.rope("sliding_attention").theta),
    }


def extra(c: Config) -> dict[str, F32]:
    """Zeros for the keys and values that llama.cpp loads and never reads.

    Checkpoints that transformers 5 saved have none in layers that read those of others.
    """
    kv = (c.kv_heads * c.head_dim, c.hidden)
    shapes = {"attn_k": kv, "attn_v": kv, "attn_k_norm": (c.head_dim,)}
    return {
        f"blk.{layer}.{part}.weight": np.zeros(shape, np.float32)
        for layer in range(OWN_KEYS, c.layers)
        for part, shape in shapes.items()
    }


def checks(c: Config) -> list[Problem]:
    """llama.cpp knows the two published shapes of this model, and has the rest in its code."""
    sparse, shared = _sparse(c.layers), _shared(c.layers)
    pairs = (
        (layer_types(c, PERIOD), _windowed(c.layers), "layer_types"),
        (c.read("num_kv_shared_layers", whole(), 0), shared, "num_kv_shared_layers"),
        (c.read(SPARSE, listed(number()), sparse), sparse, SPARSE),
    )
    return [
        Problem(
            f"config.json has {key} = {value} in {c.layers} layers",
            f"{expected}, which llama.cpp has in its code",
            "no stock runtime computes this model",
        )
        for value, expected, key in pairs
        if value != expected
    ]


def one_width(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """config.json with one `intermediate_size` where a list has the same for every layer."""
    inner = raw.get("text_config")
    values = {**raw, **inner} if isinstance(inner, Mapping) else dict(raw)
    widths = values.get("intermediate_size")
    if isinstance(widths, list) and widths and widths.count(widths[0]) == len(widths):
        values["intermediate_size"] = widths[0]
    return {**raw, **values} if not isinstance(inner, Mapping) else {**raw, "text_config": values}


def to_config(model: Model) -> dict[str, Any]:
    """Config keys of Gemma 3n, back from the metadata."""
    layers = model.whole("{arch}.block_count", least=1)
    return {
        "hidden_activation": ACTIVATIONS[0],
        "laurel_rank": RANK,
        "final_logit_softcapping": 30.0,
        "sliding_window": model.whole("{arch}.attention.sliding_window", least=1),
        "layer_types": [
            "sliding_attention" if windowed else "full_attention" for windowed in _windowed(layers)
        ],
        "num_kv_shared_layers": _shared(layers),
        SPARSE: _sparse(layers),
        "rope_local_base_freq": short(model.meta("{arch}.rope.freq_base_swa", 10000.0)),
    }


LAUREL = Block(
    names={
        "model.layers.{}.laurel.linear_left": "blk.{}.laurel_l",
        "model.layers.{}.laurel.linear_right": "blk.{}.laurel_r",
        "model.layers.{}.laurel.post_laurel_norm": "blk.{}.laurel_post_norm",
    },
    shapes={
        "laurel_l": ("laurel", "hidden"),
        "laurel_r": ("hidden", "laurel"),
        "laurel_post_norm": ("hidden",),
    },
    sizes=lambda c: {"laurel": c.count("laurel_rank")},
    defaults={"laurel_rank": RANK},
    fixed={"laurel_rank": (RANK,)},
)
"""A residual of low rank beside attention."""

FAMILY = Family(
    arch=ARCH,
    summary="Gemma 3n, the text model: E2B, E4B",
    architectures=("Gemma3nForCausalLM", "Gemma3nForConditionalGeneration"),
    model_type="gemma3n_text",
    model_types=("gemma3n",),
    metadata=metadata,
    names={hf: ours for hf, ours in GEMMA_NAMES.items() if hf in NAMES or "feedforward" in hf}
    | QK_NORMS,
    blocks=(ALTUP, LAUREL, PER_LAYER_EMBEDDINGS),
    extra=extra,
    forms={"per_layer_token_embd": FirstRowRepeated()},
    defaults={
        "vocab_size": 262400,
        "hidden_size": 2048,
        "intermediate_size": 16384,
        "num_hidden_layers": 35,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 256,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "sliding_window": 512,
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
        "hidden_activation": "gelu_pytorch_tanh",
        "tie_word_embeddings": True,
        "num_kv_shared_layers": 15,
        "vocab_size_per_layer_input": 262144,
        "final_logit_softcapping": 30.0,
    },
    fixed={
        "hidden_activation": ACTIVATIONS,
        "attention_bias": (False,),
        "final_logit_softcapping": (30.0,),
        WIDTH: (256,),
    },
    reads=frozenset(
        {
            SPARSE,
            "altup_coef_clip",  # of training alone
            "layer_types",
            "num_kv_shared_layers",
            "rope_local_base_freq",
            "sliding_window",
            "vocab_size_per_layer_input",
        }
    ),
    sliding=True,
    rope_types=frozenset({"default"}),
    skipped=(r"(model\.)?(vision_tower|audio_tower|embed_vision|embed_audio)\..*",),
    respell_config=one_width,
    checks=checks,
    to_config=to_config,
)
