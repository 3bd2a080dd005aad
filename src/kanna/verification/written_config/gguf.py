"""What llama.cpp computes of the keys of a GGUF.

The formulas are those of its rotary embedding (ggml's `rope_yarn`), written once more: families,
which write the keys, take no part in it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kanna.conversion.base import WrittenArtefact
from kanna.model import MetaValue, Tensor
from kanna.verification.written_config.computation import Computation, Layer, RotaryEmbedding

_PERIODS = {
    "exaone4": 4,
    "gemma2": 2,
    "gemma3": 6,
    "gemma3n": 5,
    "gemma4": 6,
    "gpt-oss": 2,
    "olmo2": 4,
}
"""Architectures whose windows llama.cpp reads: the last of so many layers has none."""
_WIDE = {"gemma2": 46, "gemma3": 62}
"""Layers of those whose attention llama.cpp scales by the width of all heads."""
_SOFTCAPS = {
    "gemma2": (50.0, 30.0),
    "gemma3": (0.0, 0.0),
    "gemma3n": (0.0, 30.0),
    "gemma4": (0.0, 0.0),
}
"""Of attention and of logits, where the keys are absent; other architectures read neither."""
_UNSCALED = frozenset({"gemma3n", "gemma4"})
"""Architectures whose products of queries and keys are taken as they are."""
_SCALED = frozenset({"granite", "granitehybrid", "granitemoe"})
"""Architectures that read attention.scale."""
_UNROUNDED = frozenset({"gpt-oss"})
"""Architectures whose ramp of yarn has ends that are no whole numbers.

llama.cpp rounds them, which the family says whenever one is converted; the keys are checked here.
"""
_ONE_ROPE = frozenset({"exaone4", "gpt-oss"})
"""Architectures whose layers with a window turn as the others do."""
_SWITCHED = frozenset({"granitehybrid", "nemotron_h", "nemotron_h_moe"})
"""Architectures that turn nothing where rope.scaling.finetuned is false."""
_STILL_AMONG_WINDOWS = frozenset({"exaone4"})
"""Architectures that turn nothing in a layer without a window, where others have one."""
_STILL = {"llama4": 4, "smollm3": 4}
"""Architectures whose last layer of so many has no rotary embedding."""


@dataclass(frozen=True, slots=True)
class _Keys:
    """Keys of one architecture, and the tensors beside them."""

    values: Mapping[str, MetaValue]
    tensors: Mapping[str, Tensor]

    @property
    def arch(self) -> str:
        """Name of the architecture."""
        return str(self.values["general.architecture"].value)

    def get(self, key: str, default: Any = None) -> Any:
        """Value of `{arch}.key`."""
        entry = self.values.get(f"{self.arch}.{key}")
        return default if entry is None else entry.value

    def factors(self, name: str, half: int) -> NDArray[np.float64]:
        """Divisors of the frequencies in a tensor; ones without it, infinite of another length."""
        tensor = self.tensors.get(name)
        if tensor is None:
            return np.ones(half)
        values = tensor.rows(0, 1).reshape(-1).astype(np.float64)
        return values if len(values) == half else np.full(half, np.inf)


def read(written: WrittenArtefact) -> Computation:
    """The computation of the keys and the tensors that are written."""
    keys = _Keys(written.metadata, written.tensors)
    heads, hidden = int(keys.get("attention.head_count")), int(keys.get("embedding_length"))
    count = int(keys.get("block_count")) - int(keys.get("nextn_predict_layers", 0))
    size = int(keys.get("attention.key_length", 0)) or hidden // heads
    local = int(keys.get("attention.key_length_swa", size))
    wide = count == _WIDE.get(keys.arch)
    caps = _SOFTCAPS.get(keys.arch, (0.0, 0.0))
    attention, logits = "attn_logit_softcapping", "final_logit_softcapping"
    reads = keys.arch in _SOFTCAPS
    windows = _windows(keys, count)
    scale = float(keys.get("attention.scale", 0.0)) if keys.arch in _SCALED else 0.0
    scale = 1.0 if keys.arch in _UNSCALED else scale
    full, period = _full(keys, size), _STILL.get(keys.arch, count + 1)
    if keys.arch in _SWITCHED and not keys.get("rope.scaling.finetuned", True):
        period = 1
    turns_apart = keys.arch not in _ONE_ROPE
    among = keys.arch in _STILL_AMONG_WINDOWS and any(windows)
    layers = [
        Layer(
            attends=kv_heads > 0,
            heads=heads,
            kv_heads=kv_heads,
            head_size=local if window else size,
            rope=2
            if (number + 1) % period == 0 or (among and not window)
            else int(bool(window) and turns_apart),
            scale=scale or 1 / math.sqrt(hidden // heads if wide else size),
            window=window,
            softcap=float(keys.get(attention, caps[0])) if reads else 0.0,
            epsilon=_epsilon(keys),
        )
        for number, (window, kv_heads) in enumerate(
            zip(windows, _kv_heads(keys, heads, count), strict=True)
        )
    ]
    embedding = written.tensors.get("token_embd.weight")
    return Computation(
        name="llama.cpp",
        layers=layers,
        ropes=[full, _sliding(keys, local), RotaryEmbedding.of([0.0] * len(full.frequencies), 1.0)],
        vocabulary=None if embedding is None else embedding.shape[0],
        context=int(keys.get("context_length")),
        own_head="output.weight" in written.tensors,
        final_softcap=float(keys.get(logits, caps[1])) if reads else 0.0,
    )


def _epsilon(keys: _Keys) -> float:
    rms = keys.get("attention.layer_norm_rms_epsilon")
    return float(keys.get("attention.layer_norm_epsilon") if rms is None else rms)


def _kv_heads(keys: _Keys, heads: int, count: int) -> list[int]:
    """Key-value heads of each layer; a layer without any has no attention."""
    given = keys.get("attention.head_count_kv", heads)
    each = [int(given)] * count if isinstance(given, int) else [int(n) for n in given][:count]
    recurrent = keys.get("attention.recurrent_layers", [False] * count)
    return [0 if r else n for n, r in zip(each, recurrent, strict=False)]


def _windows(keys: _Keys, count: int) -> list[int | None]:
    """Tokens each layer attends to, 0 for all; None where llama.cpp reads no window."""
    if keys.arch not in _PERIODS:
        return [None] * count
    window = int(keys.get("attention.sliding_window", 0))
    pattern = keys.get("attention.sliding_window_pattern", _PERIODS[keys.arch])
    sliding = (
        [(i + 1) % pattern != 0 for i in range(count)]
        if isinstance(pattern, int)
        else [bool(s) for s in pattern]
    )
    return [window if s else 0 for s in sliding]


def _plain(base: float, rotating: int) -> NDArray[np.float64]:
    """Frequencies without any scaling, one per pair."""
    return base ** (-2.0 * np.arange(rotating // 2) / rotating)


def _full(keys: _Keys, size: int) -> RotaryEmbedding:
    rotating = int(keys.get("rope.dimension_count", size))
    base, kind = float(keys.get("rope.freq_base", 10000.0)), keys.get("rope.scaling.type", "")
    factor = float(keys.get("rope.scaling.factor", 1.0)) if kind in ("linear", "yarn") else 1.0
    scale = float(keys.get("rope.scaling.attn_factor", 1.0))
    frequencies = _plain(base, rotating)
    if kind == "yarn":
        frequencies *= _yarn(keys, base, rotating, factor)
        multiplier = float(keys.get("rope.scaling.yarn_log_multiplier", 0.0))
        scale *= _mscale(factor, 1.0) / (_mscale(factor, multiplier) if multiplier else 1.0)
    else:
        frequencies /= factor
    half, long = rotating // 2, "rope_factors_long.weight"
    if long in keys.tensors:
        short = frequencies / keys.factors("rope_factors_short.weight", half)
        return RotaryEmbedding(
            frequencies=list(short),
            factor=scale,
            long_frequencies=list(frequencies / keys.factors(long, half)),
            long_factor=scale,
        )
    return RotaryEmbedding.of(list(frequencies / keys.factors("rope_freqs.weight", half)), scale)


def _mscale(factor: float, multiplier: float) -> float:
    return 1 + 0.1 * multiplier * math.log(factor) if factor > 1 else 1.0


def _yarn(keys: _Keys, base: float, rotating: int, factor: float) -> NDArray[np.float64]:
    """What yarn multiplies frequencies by: 1 where they are high, 1 / factor where they are low."""
    original = float(keys.get("rope.scaling.original_context_length", keys.get("context_length")))

    def pair(turns: float) -> float:
        return rotating * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(base))

    low, high = pair(32.0), pair(1.0)
    if keys.arch not in _UNROUNDED:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(0.0, low), min(rotating - 1.0, high)
    ramp = np.clip((np.arange(rotating // 2) - low) / max(0.001, high - low), 0.0, 1.0)
    return ramp / factor + (1 - ramp)


def _sliding(keys: _Keys, size: int) -> RotaryEmbedding:
    base = float(keys.get("rope.freq_base_swa", 10000.0))
    rotating = int(keys.get("rope.dimension_count_swa", keys.get("rope.dimension_count", size)))
    return RotaryEmbedding.of(list(_plain(base, rotating)), 1.0)


READER = read
