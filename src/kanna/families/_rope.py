"""Rotary position embedding as configs describe it, in the spellings of transformers 4 and 5.

transformers 4: `rope_theta`, `rope_scaling` (`type` or `rope_type`), `rope_local_base_freq`
transformers 5: `rope_parameters`, flat or one dict per layer type
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from kanna._util.typed import read, real, shown, text
from kanna.errors import SourceError
from kanna.model import F32, MetaValue, f32, string, u32

ORIGINAL = "original_max_position_embeddings"
LAYER_TYPES = ("full_attention", "sliding_attention")


@dataclass(frozen=True, slots=True)
class Rope:
    """theta and scaling of one kind of layer; `params` holds the scaling's own numbers."""

    theta: float
    kind: str
    params: Mapping[str, Any]

    def number(self, key: str, default: float | None = None) -> float:
        """One of the numbers of the scaling; SourceError when it is absent or something else."""
        value = real(self.params.get(key, default))
        if value is None:
            raise SourceError(
                f"rope scaling {self.kind!r} has {key} = {shown(self.params.get(key))}",
                expected="a number",
                todo="check rope_parameters (or rope_scaling) in config.json",
            )
        return value


def rope_of(values: Mapping[str, Any], layers: str) -> Rope:
    """Rope of one layer type, from config values of either spelling."""
    params = given_parameters(values)
    per_layer = any(kind in params for kind in LAYER_TYPES)
    theta = values.get("rope_theta", 10000.0)
    if layers == "sliding_attention":
        theta = values.get("rope_local_base_freq", theta)
        # A flat dict belongs to the full-attention layers where a family has both kinds.
        params = (params.get(layers) or {}) if per_layer else {}
    elif per_layer:
        params = params.get(layers) or {}
    if not isinstance(params, Mapping):
        raise SourceError(
            f"config.json has rope parameters {shown(params)} for {layers}", expected="an object"
        )
    theta = params.get("rope_theta", theta)
    base = real(theta)
    if base is None or base <= 0:
        raise SourceError(
            f"config.json has rope_theta = {shown(theta)}", expected="a positive number"
        )
    named = params.get("rope_type") or params.get("type") or "default"
    kind = read(named, text(64), "rope_type", "config.json").lower()
    context = values.get("max_position_embeddings")
    if kind in ("llama3", "yarn") and params.get(ORIGINAL) is None and context is not None:
        params = {**params, ORIGINAL: context}
    return Rope(base, kind, params)


def given_parameters(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The parameters that count, flat or one object per layer type: `rope_scaling` before others.

    So in transformers 5, whose own configs have `rope_parameters`: who adds `rope_scaling` by hand,
    as model cards say, means it. In a config with an object per layer type it is that of the full
    layers.
    """
    old, new = values.get("rope_scaling") or {}, values.get("rope_parameters") or {}
    for name, params in (("rope_scaling", old), ("rope_parameters", new)):
        if not isinstance(params, Mapping):
            raise SourceError(
                f"config.json has {name} = {shown(params)}",
                expected="an object",
                todo="fetch config.json again from where the model was published",
            )
    if old and any(isinstance(new.get(kind), Mapping) for kind in LAYER_TYPES):
        return {**new, "full_attention": {**(new.get("full_attention") or {}), **old}}
    return old or new


def scaling_metadata(arch: str, rope: Rope, context: int) -> dict[str, MetaValue]:
    """`{arch}.rope.scaling.*` for linear and yarn; nothing for the others."""
    key = f"{arch}.rope.scaling"
    if rope.kind == "linear":
        return {f"{key}.type": string("linear"), f"{key}.factor": f32(rope.number("factor"))}
    if rope.kind != "yarn":
        return {}
    keys = {
        f"{key}.type": string("yarn"),
        f"{key}.factor": f32(rope.number("factor")),
        f"{key}.original_context_length": u32(
            int(rope.number("original_max_position_embeddings", context))
        ),
    }
    for gguf_key, hf_key in (("yarn_beta_fast", "beta_fast"), ("yarn_beta_slow", "beta_slow")):
        if rope.params.get(hf_key) is not None:
            keys[f"{key}.{gguf_key}"] = f32(rope.number(hf_key))
    # llama.cpp multiplies what it computes itself by this factor.
    ratio = yarn_attention_factor(rope) / yarn_scale(rope.number("factor"))
    if abs(ratio - 1.0) > 1e-7:
        keys[f"{key}.attn_factor"] = f32(ratio)
    return keys


def yarn_attention_factor(rope: Rope) -> float:
    """What transformers multiplies cosine and sine with."""
    if rope.params.get("attention_factor") is not None:
        return rope.number("attention_factor")
    factor = rope.number("factor")
    if rope.params.get("mscale") and rope.params.get("mscale_all_dim"):
        one, all_dimensions = rope.number("mscale"), rope.number("mscale_all_dim")
        return yarn_scale(factor, one) / yarn_scale(factor, all_dimensions)
    return yarn_scale(factor)


def yarn_scale(factor: float, weight: float = 1.0) -> float:
    """What yarn multiplies cosine and sine with for a factor, unless it is told otherwise."""
    return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0


def llama3_factors(rope: Rope, dim: int) -> F32:
    """Divisors of the rotary frequencies [dim / 2] for Llama 3.1's scaling.

    Long wavelengths are divided by `factor`, short ones kept, those between blended.
    """
    factor, low = rope.number("factor", 8.0), rope.number("low_freq_factor", 1.0)
    high, old = (
        rope.number("high_freq_factor", 4.0),
        rope.number("original_max_position_embeddings", 8192),
    )
    exponent = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
    frequency = np.float32(1.0) / np.power(np.float32(rope.theta), exponent)
    wavelength = np.float32(2 * math.pi) / frequency
    with np.errstate(all="ignore"):
        blend = np.clip((old / wavelength.astype(np.float64) - low) / (high - low), 0.0, 1.0)
        factors = (1.0 / ((1.0 - blend) / factor + blend)).astype(np.float32)
    if not np.isfinite(factors).all():
        raise SourceError(
            f"rope scaling 'llama3' has factor {factor:g}, low_freq_factor {low:g} and "
            f"high_freq_factor {high:g}",
            expected="a factor above 0, and two different frequency factors",
            todo="fetch config.json again from where the model was published",
        )
    return factors
