"""Gemma 4, the text model: two head sizes, shared keys and values, embeddings per layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from kanna._util.typed import whole
from kanna.families._config import Config
from kanna.families._keys import common
from kanna.families._stored_rope import short
from kanna.families.base import ENDS, FEED_FORWARD, Block, Family, Metadata, Problem
from kanna.families.blocks.expert_stacks import Spelling
from kanna.families.blocks.experts import experts
from kanna.families.blocks.per_layer_embeddings import PER_LAYER_EMBEDDINGS
from kanna.families.gemma2 import ACTIVATIONS, layer_types
from kanna.model import F32, Model, ValueType, array, f32, u32

ARCH = "gemma4"
PERIOD = 6
"""Where config.json names no layer_types, the last of so many layers sees everything."""
_STILL = np.float32(1e30)
"""llama.cpp divides the frequency of a pair that does not turn by this."""


def is_sliding(c: Config, layer: int) -> bool:
    """Whether a layer sees a window alone."""
    return layer_types(c, PERIOD)[layer]


def _of_layer(c: Config, key: str, layer: int, full: str, default: int) -> int:
    """A size of one layer, from per_layer_config or the older key of layers without a window.

    Args:
        c: The config.
        key: What it is called for every layer.
        layer: Number of the layer.
        full: What it is called for those without a window, in the older spelling.
        default: Where neither says anything.
    """
    given = c.get("per_layer_config")
    if isinstance(given, Mapping):
        own = {int(k): v for k, v in given.items() if str(k).isdecimal()}.get(layer)
        value = own.get(key) if isinstance(own, Mapping) else None
        return value if isinstance(value, int) and value > 0 else c.count(key)
    if is_sliding(c, layer):
        return c.count(key)
    return c.read(full, whole(1), default)


def head_size(c: Config, layer: int) -> int:
    """Values of a head in a layer."""
    return _of_layer(c, "head_dim", layer, "global_head_dim", 512)


def kv_heads(c: Config, layer: int) -> int:
    """Key-value heads of a layer."""
    return _of_layer(c, "num_key_value_heads", layer, "num_global_key_value_heads", c.kv_heads)


def shares(c: Config, layer: int) -> bool:
    """Whether a layer reads the keys and values of one before it."""
    return layer >= c.layers - c.read("num_kv_shared_layers", whole(), 0)


def feed_forward(c: Config, layer: int) -> int:
    """Width of the feed-forward part of a layer."""
    return c.ff * (2 if shares(c, layer) and c.flag("use_double_wide_mlp") else 1)


def _layer_sizes(c: Config, layer: int) -> dict[str, int]:
    size = head_size(c, layer)
    return {
        "head": size,
        "q": c.heads * size,
        "kv": kv_heads(c, layer) * size,
        "ff": feed_forward(c, layer),
    }


def _has_keys(c: Config, layer: int) -> bool:
    return not shares(c, layer)


def _has_values(c: Config, layer: int) -> bool:
    """Layers without a window may take their keys for values."""
    return _has_keys(c, layer) and (is_sliding(c, layer) or not c.flag("attention_k_eq_v"))


def metadata(c: Config) -> Metadata:
    """The `gemma4.*` keys; arrays where layers differ."""
    sliding = layer_types(c, PERIOD)
    wide = next((head_size(c, i) for i, s in enumerate(sliding) if not s), c.head_dim)
    local = c.rope("sliding_attention")
    rotating = int(c.head_dim * float(local.params.get("partial_rotary_factor", 1.0)))
    keys = common(ARCH, c, head_dim=False) | {
        f"{ARCH}.attention.key_length": u32(wide),
        f"{ARCH}.attention.value_length": u32(wide),
        f"{ARCH}.attention.key_length_swa": u32(c.head_dim),
        f"{ARCH}.attention.value_length_swa": u32(c.head_dim),
        f"{ARCH}.attention.sliding_window": u32(c.count("sliding_window")),
        f"{ARCH}.attention.sliding_window_pattern": array(sliding, ValueType.BOOL),
        f"{ARCH}.attention.shared_kv_layers": u32(c.read("num_kv_shared_layers", whole(), 0)),
        f"{ARCH}.rope.freq_base_swa": f32(local.theta),
        f"{ARCH}.rope.dimension_count": u32(wide),
        f"{ARCH}.rope.dimension_count_swa": u32(rotating),
    }
    if c.get("final_logit_softcapping") is not None:
        keys[f"{ARCH}.final_logit_softcapping"] = f32(c.number("final_logit_softcapping"))
    for key, values in (
        ("feed_forward_length", [feed_forward(c, i) for i in range(c.layers)]),
        ("attention.head_count_kv", [kv_heads(c, i) for i in range(c.layers)]),
    ):
        if len(set(values)) > 1:
            keys[f"{ARCH}.{key}"] = array(values, ValueType.I32)
    return keys


def extra(c: Config) -> dict[str, F32]:
    """`rope_freqs.weight`: which pairs of a head turn in layers without a window."""
    sliding = layer_types(c, PERIOD)
    wide = next((head_size(c, i) for i, s in enumerate(sliding) if not s), c.head_dim)
    part = float(c.rope().params.get("partial_rotary_factor", 1.0))
    turning = int(part * wide // 2)
    factors = np.full(wide // 2, _STILL, np.float32)
    factors[:turning] = 1.0
    return {"rope_freqs.weight": factors}


def checks(c: Config) -> list[Problem]:
    """llama.cpp knows one head size for each kind of layer."""
    problems: list[Problem] = []
    sliding = layer_types(c, PERIOD)
    sizes = {(s, head_size(c, i)) for i, s in enumerate(sliding)}
    if len(sizes) != len(set(sliding)) or any(s and n != c.head_dim for s, n in sizes):
        problems.append(
            Problem(
                "config.json has layers of one kind with heads of several sizes",
                "one size for layers with a window, and one for those without",
                "no stock runtime computes this model",
            )
        )
    first = c.layers - c.read("num_kv_shared_layers", whole(), 0)
    if first < c.layers and sliding[max(first - 2, 0) : first] != [True, False]:
        problems.append(
            Problem(
                f"config.json has {c.layers - first} layers that share keys and values of others",
                "a layer with a window and one without before them, whose keys llama.cpp takes",
                "no stock runtime computes this model",
            )
        )
    if all(sliding):
        problems.append(
            Problem("config.json has a window in every layer", "one without, as llama.cpp expects")
        )
    return problems


def to_config(model: Model) -> dict[str, Any]:
    """Config keys of Gemma 4, back from the metadata."""
    pattern = [bool(s) for s in model.meta("{arch}.attention.sliding_window_pattern")]
    wide = model.whole("{arch}.attention.key_length", least=1)
    size = model.whole("{arch}.attention.key_length_swa", least=1)
    widths = _each(model.meta("{arch}.feed_forward_length"), len(pattern))
    heads = _each(model.meta("{arch}.attention.head_count_kv"), len(pattern))
    base = next((n for n, s in zip(heads, pattern, strict=True) if s), heads[0])
    factors = model.tensors["rope_freqs.weight"].rows(0, 1).reshape(-1)
    overrides = {
        str(i): {"head_dim": wide} | ({"num_key_value_heads": n} if n != base else {})
        for i, (s, n) in enumerate(zip(pattern, heads, strict=True))
        if not s
    }
    full = [i for i, s in enumerate(pattern) if not s]
    shared = model.whole("{arch}.attention.shared_kv_layers", 0)
    kept = [i for i in full if i < len(pattern) - shared]
    own_values = all(f"blk.{i}.attn_v.weight" in model.tensors for i in kept)
    return {
        "hidden_activation": ACTIVATIONS[0],
        "head_dim": size,
        "intermediate_size": widths[0],
        "num_key_value_heads": base,
        "per_layer_config": overrides,
        # The older spelling of the same, which mlx-lm reads.
        "global_head_dim": wide,
        "num_global_key_value_heads": heads[full[-1]],
        "attention_k_eq_v": not own_values,
        "enable_moe_block": bool(model.whole("{arch}.expert_count", 0)),
        "num_kv_shared_layers": shared,
        "use_double_wide_mlp": len(set(widths)) > 1,
        "sliding_window": model.whole("{arch}.attention.sliding_window", least=1),
        "layer_types": ["sliding_attention" if s else "full_attention" for s in pattern],
        "final_logit_softcapping": model.meta("{arch}.final_logit_softcapping"),
        "rope_parameters": {
            "full_attention": {
                "rope_type": "proportional",
                "rope_theta": short(model.meta("{arch}.rope.freq_base")),
                "partial_rotary_factor": float(np.mean(factors < _STILL / 2)),
            },
            "sliding_attention": {
                "rope_type": "default",
                "rope_theta": short(model.meta("{arch}.rope.freq_base_swa", 10000.0)),
            },
        },
    }


def _each(value: Any, layers: int) -> list[int]:
    return [int(value)] * layers if isinstance(value, int) else [int(n) for n in value]


def has_experts(c: Config) -> bool:
    """Whether experts stand beside the feed-forward part (26B-A4B)."""
    return c.flag("enable_moe_block")


EXPERTS = experts(
    Spelling(
        each={},
        gate_up="experts.gate_up_proj",
        down="experts.down_proj",
        router="router.proj",
        fused=True,
    ),
    used="top_k_experts",
    present=has_experts,
)
BESIDE = Block(
    names={
        "model.layers.{}.post_feedforward_layernorm_1": "blk.{}.post_ffw_norm_1",
        "model.layers.{}.pre_feedforward_layernorm_2": "blk.{}.pre_ffw_norm_2",
        "model.layers.{}.post_feedforward_layernorm_2": "blk.{}.post_ffw_norm_2",
    },
    tensors={
        "model.layers.{}.router.scale": "blk.{}.ffn_gate_inp.scale",
        "model.layers.{}.router.per_expert_scale": "blk.{}.ffn_down_exps.scale",
    },
    shapes={
        "post_ffw_norm_1": ("hidden",),
        "pre_ffw_norm_2": ("hidden",),
        "post_ffw_norm_2": ("hidden",),
        "ffn_gate_inp.scale": ("hidden",),
        "ffn_down_exps.scale": ("experts",),
    },
    present=has_experts,
)
"""Norms and scales of the experts."""

FAMILY = Family(
    arch=ARCH,
    summary="Gemma 4, the text model: E2B, E4B, 12B, 31B, 26B-A4B",
    architectures=(
        "Gemma4ForCausalLM",
        "Gemma4ForConditionalGeneration",
        "Gemma4UnifiedForConditionalGeneration",
    ),
    model_type="gemma4_text",
    model_types=("gemma4", "gemma4_unified"),
    metadata=metadata,
    names=ENDS
    | {
        "model.layers.{}.input_layernorm": "blk.{}.attn_norm",
        "model.layers.{}.self_attn.q_proj": "blk.{}.attn_q",
        "model.layers.{}.self_attn.o_proj": "blk.{}.attn_output",
        "model.layers.{}.self_attn.q_norm": "blk.{}.attn_q_norm",
        "model.layers.{}.post_attention_layernorm": "blk.{}.post_attention_norm",
        "model.layers.{}.pre_feedforward_layernorm": "blk.{}.ffn_norm",
        **FEED_FORWARD,
        "model.layers.{}.post_feedforward_layernorm": "blk.{}.post_ffw_norm",
    },
    tensors={"model.layers.{}.layer_scalar": "blk.{}.layer_output_scale.weight"},
    blocks=(
        Block(
            names={
                "model.layers.{}.self_attn.k_proj": "blk.{}.attn_k",
                "model.layers.{}.self_attn.k_norm": "blk.{}.attn_k_norm",
            },
            where=_has_keys,
        ),
        Block(names={"model.layers.{}.self_attn.v_proj": "blk.{}.attn_v"}, where=_has_values),
        EXPERTS,
        BESIDE,
        PER_LAYER_EMBEDDINGS,
    ),
    unused=Block(
        names={
            f"model.layers.{{}}.self_attn.{part}": "" for part in ("k_proj", "v_proj", "k_norm")
        },
        where=shares,
    ),
    shapes={"layer_output_scale": ("one",)},
    sizes=lambda _: {"one": 1},
    layer_sizes=_layer_sizes,
    defaults={
        "vocab_size": 262144,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 30,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-6,
        "sliding_window": 512,
        "hidden_activation": "gelu_pytorch_tanh",
        "tie_word_embeddings": True,
        "attention_k_eq_v": False,
        "num_kv_shared_layers": 0,
        "use_double_wide_mlp": False,
    },
    fixed={
        "hidden_activation": ACTIVATIONS,
        "attention_bias": (False,),
        "attn_logit_softcapping": (),
    },
    reads=frozenset(
        {
            "attention_k_eq_v",
            "enable_moe_block",
            "final_logit_softcapping",
            "global_head_dim",
            "layer_types",
            "num_global_key_value_heads",
            "num_kv_shared_layers",
            "partial_rotary_factor",
            "per_layer_config",
            "rope_local_base_freq",
            "sliding_window",
            "use_bidirectional_attention",
            "use_double_wide_mlp",
        }
    ),
    sliding=True,
    rope_types=frozenset({"default", "proportional"}),
    extra=extra,
    skipped=(
        r"(model\.)?(vision_tower|audio_tower|embed_vision|embed_audio|vision_embedder)\..*",
        r"(model\.)?multi_modal_projector\..*",
    ),
    checks=checks,
    to_config=to_config,
)
