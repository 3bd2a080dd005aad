"""Fingerprint of a model: a few values of every tensor, to recognize the same weights later.

The hash of a file changes with its container; values do not, but for rounding. So bf16 safetensors
and their GGUF in f32, f16 or bf16 are one model, a fine-tune of it is another, however alike their
shapes are. What was quantized is held against the error its bits leave: there, only a change larger
than that can be seen.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kanna import encodings
from kanna.errors import FormatError, UnsupportedError
from kanna.formats import safetensors
from kanna.model import F32, Model, Tensor, columns, num_rows

ROWS, COLUMNS = 4, 16
"""Values of a tensor: so many columns of so many rows, evenly spaced."""
ONE_TENSOR, ALL_TENSORS = 1 / 8, 1 / 50
"""Share of values that differ in one tensor, and in all together, beyond which it is another model.

Rounded twice (f32, f16, bf16), some values end one step beside those rounded once.
"""
_KINDS = "kinds"
# Bits of a value that count, the hidden one included.
_PRECISION = {"f64": 24, "f32": 24, "f16": 11, "bf16": 8}


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledValues:
    """Some values of one tensor.

    Attributes:
        values: f32 [n].
        dtype: The encoding they were read from.
        vector: Whether it is a norm or a bias.
    """

    values: F32
    dtype: str
    vector: bool


Fingerprint = Mapping[str, SampledValues]
"""Sampled values by the name of the tensor."""


def compute(model: Model) -> dict[str, SampledValues]:
    """Values of every tensor by its name. Raises SourceError when only headers are here."""
    return {
        name: SampledValues(
            values=_sample(tensor), dtype=tensor.dtype, vector=len(tensor.shape) < 2
        )
        for name, tensor in model.tensors.items()
    }


def _sample(tensor: Tensor) -> F32:
    rows, cols = num_rows(tensor), columns(tensor)
    down = np.unique(((np.arange(ROWS) + 0.5) * rows / ROWS).astype(int))
    along = np.unique(((np.arange(COLUMNS) + 0.5) * cols / COLUMNS).astype(int))
    return np.concatenate([tensor.rows(int(i), int(i) + 1)[0, along] for i in down]).astype(
        np.float32
    )


def difference(before: Fingerprint, now: Fingerprint) -> str | None:
    """How two models differ, in words; None when they hold the same weights."""
    total = differ = 0
    worst, worst_share = "", 0.0
    for name, a in before.items():
        b = now.get(name)
        if b is None or b.values.shape != a.values.shape:
            return f"{name} is not in both"
        if max(_bits(a.dtype)[1], _bits(b.dtype)[1]) > 1 and a.dtype != b.dtype:
            error = float(np.linalg.norm(a.values - b.values)) / (
                float(np.linalg.norm(a.values)) or 1.0
            )
            # Quantizing leaves about 2^-bits of a normal weight; the margin is for unusual ones.
            allowed = min(0.75, 2.0 ** (2 - min(_bits(a.dtype)[0], _bits(b.dtype)[0])))
            if not error <= allowed:
                return f"values of {name} differ by {error:.0%}"
            continue
        apart = int((~(np.abs(a.values - b.values) <= _tolerance(a, b))).sum())
        total, differ = total + a.values.size, differ + apart
        if apart / a.values.size > worst_share:
            worst, worst_share = name, apart / a.values.size
    if worst_share > ONE_TENSOR or differ > ALL_TENSORS * total:
        return (
            f"{differ:,} of {total:,} sampled values differ, {worst_share:.0%} of those of {worst}"
        )
    return None


def _bits(dtype: str) -> tuple[float, int]:
    """Bits per weight of an encoding, and values in a block."""
    try:
        encoding = encodings.get(dtype)
    except UnsupportedError:
        return 32.0, 1
    return encoding.bits, encoding.block


def _tolerance(a: SampledValues, b: SampledValues) -> F32:
    """Half a step of the coarser type; for equal types, the rounding of float32 arithmetic."""
    size = np.maximum(np.abs(a.values), np.abs(b.values))
    kinds = {a.dtype, b.dtype}
    coarsest = min(_PRECISION.get(k, 24) for k in kinds)
    if a.vector:
        # Some are kept with one added, and rounded without it.
        coarsest, size = 8, np.maximum(size, np.float32(1))
    elif len(kinds) == 1:
        coarsest = 22
    step = np.exp2(np.frexp(size)[1].astype(np.float32) - np.float32(coarsest))
    smallest = np.float32(2.0**-24 if "f16" in kinds and len(kinds) > 1 else 0.0)
    # Half a step, and a quarter more for what was rounded twice.
    return (np.maximum(step, smallest) * np.float32(0.625)).astype(np.float32)


def save(path: Path, fingerprint: Fingerprint) -> None:
    """Write a fingerprint, replacing what is there."""
    kinds = {name: [v.dtype, v.vector] for name, v in fingerprint.items()}
    # One entry: several would be written in any order.
    values = {name: np.ascontiguousarray(v.values) for name, v in fingerprint.items()}
    safetensors.save(path, values, {_KINDS: json.dumps(kinds)})


def load(path: Path) -> dict[str, SampledValues]:
    """The fingerprint that `save` wrote. Raises FormatError when it is absent or damaged."""
    from safetensors import safe_open

    fingerprint: dict[str, SampledValues] = {}
    try:
        with safe_open(str(path), framework="np") as file:
            for name, (dtype, vector) in json.loads((file.metadata() or {})[_KINDS]).items():
                fingerprint[name] = SampledValues(
                    values=file.get_tensor(name), dtype=str(dtype), vector=bool(vector)
                )
    except Exception as error:  # safetensors raises several types of its own
        raise FormatError(f"{path} cannot be read: {error}", todo="calibrate again") from error
    return fingerprint
