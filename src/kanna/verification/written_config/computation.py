"""What a model computes beside its weights, in numbers that any runtime can be asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

_RELATIVE = 1e-4
"""Far above what float32 costs anywhere, far below what another parameter changes."""
_SIZES = ("heads", "kv_heads", "head_size")
_NUMBERS = {
    "scale": "the scale of attention",
    "softcap": "the soft cap of attention",
    "epsilon": "the epsilon of norms",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RotaryEmbedding:
    """Rotary embedding of some layers.

    Attributes:
        frequencies: Radians by which one position turns each pair of values.
        factor: What cosine and sine are multiplied by.
        long_frequencies: In a text longer than the model was first trained for.
        long_factor: In such a text.
    """

    frequencies: Sequence[float]
    factor: float
    long_frequencies: Sequence[float]
    long_factor: float

    @classmethod
    def of(cls, frequencies: Sequence[float], factor: float) -> RotaryEmbedding:
        """The same in a text of any length."""
        return cls(
            frequencies=frequencies,
            factor=factor,
            long_frequencies=frequencies,
            long_factor=factor,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer; None: not known of this runtime.

    Attributes:
        attends: Whether it has attention; what follows is of that.
        heads: Query heads.
        kv_heads: Key-value heads.
        head_size: Values of a head.
        rope: Which of the rotary embeddings.
        scale: What products of queries and keys are multiplied by.
        window: Tokens that it attends to; 0: all.
        softcap: Bound of the products; 0: none.
        epsilon: Of the norms.
    """

    attends: bool = True
    heads: int | None = None
    kv_heads: int | None = None
    head_size: int | None = None
    rope: int = 0
    scale: float | None = None
    window: int | None = None
    softcap: float | None = None
    epsilon: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Computation:
    """A whole model; None: not known of this runtime.

    Attributes:
        name: What computes so.
        layers: Each layer.
        ropes: Rotary embeddings, which layers have by their place here.
        vocabulary: Rows of the embedding.
        context: Tokens it was trained for.
        own_head: Whether the output matrix is another than the embedding.
        final_softcap: Bound of the logits; 0: none.
        precision: Radians by which frequencies may be off as they are stored.
    """

    name: str
    layers: Sequence[Layer]
    ropes: Sequence[RotaryEmbedding]
    vocabulary: int | None = None
    context: int | None = None
    own_head: bool | None = None
    final_softcap: float | None = None
    precision: float = 1e-9

    @classmethod
    def of_json(cls, values: Mapping[str, Any]) -> Computation:
        """A computation as a process of ours prints it."""
        rest = {k: v for k, v in values.items() if k not in ("layers", "ropes")}
        return cls(
            layers=[Layer(**layer) for layer in values["layers"]],
            ropes=[RotaryEmbedding(**rope) for rope in values["ropes"]],
            **rest,
        )


@dataclass(slots=True)
class Differences:
    """What is computed otherwise.

    Attributes:
        wrong: Of every text.
        partial: Of texts of some lengths alone.
    """

    wrong: list[str] = field(default_factory=list[str])
    partial: list[str] = field(default_factory=list[str])


def compare(expected: Computation, actual: Computation) -> Differences:
    """What `actual` computes otherwise than `expected`, where both are known."""
    differences = Differences(wrong=list(_sizes(expected, actual)))
    if len(expected.layers) != len(actual.layers):
        differences.wrong.append(
            f"layers: {len(expected.layers)} became {len(actual.layers)}",
        )
        return differences
    seen: set[str] = set()
    for number, (a, b) in enumerate(zip(expected.layers, actual.layers, strict=True)):
        rope_a, rope_b = expected.ropes[a.rope], actual.ropes[b.rope]
        if not (a.attends and b.attends):
            if a.attends != b.attends:
                differences.wrong.append(f"layer {number}: attention in one of the two alone")
            continue
        wrong = [*_of_layer(a, b), *_of_rope(rope_a, rope_b, actual.precision)]
        partial = [*_of_window(a, b, expected.context)]
        short = _frequencies(rope_a.frequencies, rope_b.frequencies, actual.precision)
        if short and not wrong:
            partial.append(f"angles of texts of the first trained length: {short}")
        for kind, texts in ((differences.wrong, wrong), (differences.partial, partial)):
            kind += [f"layer {number}: {t}" for t in texts if t not in seen]
            seen.update(texts)
    return differences


def _sizes(expected: Computation, actual: Computation) -> Iterator[str]:
    for name, title in (("vocabulary", "rows of the embedding"), ("context", "context length")):
        yield from _differing(title, getattr(expected, name), getattr(actual, name))
    # A head of its own that the config denies is the source's contradiction, told elsewhere.
    if expected.own_head and actual.own_head is False:
        yield "the output matrix: one of its own became the embedding"
    yield from _differing("the soft cap of logits", expected.final_softcap, actual.final_softcap)


def _of_layer(a: Layer, b: Layer) -> Iterator[str]:
    for name in _SIZES:
        yield from _differing(name.replace("_", " "), getattr(a, name), getattr(b, name))
    for name, title in _NUMBERS.items():
        yield from _differing(title, getattr(a, name), getattr(b, name))


def _of_rope(a: RotaryEmbedding, b: RotaryEmbedding, precision: float) -> Iterator[str]:
    """Differences in long texts, which one that is no longer than the first length may not have."""
    if text := _frequencies(a.long_frequencies, b.long_frequencies, precision):
        yield text
    short_alike = not _frequencies(a.frequencies, b.frequencies, precision)
    factors = [(a.factor, b.factor)] if short_alike else []
    for one, other in [*factors, (a.long_factor, b.long_factor)]:
        yield from _differing("the factor of cosine and sine", one, other)


def _of_window(a: Layer, b: Layer, context: int | None) -> Iterator[str]:
    whole = context or 1 << 62
    before, after = (0 if not w or w >= whole else w for w in (a.window, b.window))
    if b.window is not None and a.window is not None and before != after:
        yield f"attends to {before or 'all'} tokens in the source, to {after or 'all'} in the file"


def _frequencies(a: Sequence[float], b: Sequence[float], precision: float) -> str:
    """Where frequencies differ first; empty: nowhere."""
    if len(a) != len(b):
        return f"{2 * len(a)} values of a head rotate, not {2 * len(b)}"
    one, other = np.asarray(a, np.float64), np.asarray(b, np.float64)
    apart = np.abs(one - other) > precision + _RELATIVE * np.abs(one)
    if not apart.any():
        return ""
    at = int(apart.argmax())
    return f"frequency {at} of the rotary embedding: {one[at]:.7g} became {other[at]:.7g}"


def _differing(title: str, before: float | None, after: float | None) -> Iterator[str]:
    if before is None or after is None:
        return
    if abs(before - after) > _RELATIVE * abs(before):
        yield f"{title}: {before:.7g} became {after:.7g}"
