"""Phi-3, Phi-3.5 and Phi-4-mini: q, k, v in one matrix, gate and up in one, long rope factors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from kanna._util.typed import listed, number
from kanna.errors import SourceError
from kanna.families._config import Config
from kanna.families._keys import common
from kanna.families.base import Family, Metadata, Problem, derived_head_size
from kanna.model import F32, Model, f32, u32

ARCH = "phi3"
LONG = ("su", "longrope", "yarn")
"""Published configs say `su` or `yarn` for what transformers now calls `longrope`."""


def _rotary(c: Config) -> int:
    """Dimensions of a head that rotate."""
    return int(c.rotary_part() * c.hidden) // c.heads


def _original(c: Config) -> int:
    """Context the model was first trained for."""
    # transformers takes the one beside the rope parameters before the one among them.
    return c.count("original_max_position_embeddings")


def metadata(c: Config) -> Metadata:
    """The `phi3.*` keys."""
    keys = common(ARCH, c, head_dim=False, scaling=False) | {
        f"{ARCH}.rope.scaling.original_context_length": u32(_original(c)),
        f"{ARCH}.rope.dimension_count": u32(_rotary(c)),
        # 0 tells Phi-4 from models of which older llama.cpp must guess the window.
        f"{ARCH}.attention.sliding_window": u32(c.window or 0),
    }
    if c.rope().params.get("long_factor"):
        keys[f"{ARCH}.rope.scaling.attn_factor"] = f32(_attention_factor(c))
    return keys


def _attention_factor(c: Config) -> float:
    """What transformers multiplies cos and sin with.

    By the square root of a log ratio of the contexts.
    """
    rope = c.rope()
    if rope.params.get("attention_factor") is not None:
        return rope.number("attention_factor")
    if rope.params.get("factor") is not None:
        return _usual_factor(rope.number("factor") * _original(c), _original(c))
    return _usual_factor(c.context, _original(c))


def _usual_factor(context: float, original: int) -> float:
    scale = context / original
    return math.sqrt(1 + math.log(scale) / math.log(max(original, 2))) if scale > 1 else 1.0


def extra(c: Config) -> dict[str, F32]:
    """`rope_factors_long.weight` and `rope_factors_short.weight`, f32 [rotary / 2]."""
    tensors: dict[str, F32] = {}
    for kind in ("long", "short"):
        given = c.rope().params.get(f"{kind}_factor")
        if given is None and c.rope().kind == "default":
            continue
        values = listed(number()).convert(given)
        if values is None or len(values) != _rotary(c) // 2:
            count = "no" if values is None else len(values)
            raise SourceError(
                f"rope parameters have {count} {kind} factors",
                expected=f"{_rotary(c) // 2}, half the rotary size",
                todo="fetch config.json again",
            )
        tensors[f"rope_factors_{kind}.weight"] = np.asarray(values, dtype=np.float32)
    return tensors


def checks(c: Config) -> list[Problem]:
    """What llama.cpp does otherwise: no window, and one choice of factors for a whole context."""
    notes = derived_head_size(c)
    window = c.window
    if window is not None and window < c.context:
        notes.append(
            Problem(
                f"the model attends to the last {window} tokens; llama.cpp attends to all",
                todo=f"results are the same up to {window} tokens of context",
                fatal=False,
            )
        )
    if c.rope().kind in LONG:
        original = _original(c)
        notes.append(
            Problem(
                f"llama.cpp takes the short rope factors in contexts up to {original} tokens and "
                "the long ones beyond, whatever the text's length",
                todo=f"open it with a context of {original} tokens or less for short texts",
                fatal=False,
            )
        )
    return notes


def to_config(model: Model) -> dict[str, Any]:
    """Published Phi-3 configs name the scaling at the top level and in rope_scaling.

    Both are written.
    """
    hidden, heads = (
        model.whole("{arch}.embedding_length", least=1),
        model.whole("{arch}.attention.head_count", least=1),
    )
    rotary = model.meta("{arch}.rope.dimension_count", hidden // heads)
    config: dict[str, Any] = {
        "sliding_window": model.meta("{arch}.attention.sliding_window") or None,
        "original_max_position_embeddings": model.whole(
            "{arch}.rope.scaling.original_context_length",
            model.whole("{arch}.context_length", least=1),
            least=1,
        ),
        "partial_rotary_factor": rotary * heads / hidden,
    }
    factors = {k: model.tensors.get(f"rope_factors_{k}.weight") for k in ("long", "short")}
    if factors["long"] is not None and factors["short"] is not None:
        scaling: dict[str, Any] = {
            "type": "longrope",
            **{
                f"{k}_factor": [float(str(v)) for v in t.rows(0, 1)[0]]
                for k, t in factors.items()
                if t is not None
            },
        }
        factor = model.meta("{arch}.rope.scaling.attn_factor")
        usual = _usual_factor(
            model.whole("{arch}.context_length"), config["original_max_position_embeddings"]
        )
        if factor is not None and abs(factor - usual) > 1e-6 * usual:
            scaling["attention_factor"] = float(str(np.float32(factor)))
        config["rope_scaling"] = scaling
    return config


FAMILY = Family(
    arch=ARCH,
    summary=(
        "Phi-3, Phi-3.5 and Phi-4-mini: q, k, v in one matrix, gate and up in one, long rope "
        "factors"
    ),
    also=(
        "Phi-4",
        "Phi-4-mini-reasoning",
        "Phi-4-reasoning",
    ),
    architectures=("Phi3ForCausalLM",),
    model_type="phi3",
    metadata=metadata,
    names={
        "model.embed_tokens": "token_embd",
        "model.layers.{}.input_layernorm": "blk.{}.attn_norm",
        "model.layers.{}.self_attn.qkv_proj": "blk.{}.attn_qkv",
        "model.layers.{}.self_attn.o_proj": "blk.{}.attn_output",
        "model.layers.{}.post_attention_layernorm": "blk.{}.ffn_norm",
        "model.layers.{}.mlp.gate_up_proj": "blk.{}.ffn_up",
        "model.layers.{}.mlp.down_proj": "blk.{}.ffn_down",
        "model.norm": "output_norm",
        "lm_head": "output",
    },
    shapes={"ffn_up": ("2ff", "hidden")},
    defaults={
        "vocab_size": 32064,
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 4096,
        "original_max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
    },
    fixed={"hidden_act": ("silu", "swish"), "attention_bias": (False,)},
    reads=frozenset({"partial_rotary_factor", "sliding_window"}),
    rope_types=frozenset({"default", "su", "longrope", "yarn"}),
    extra=extra,
    checks=checks,
    to_config=to_config,
)
