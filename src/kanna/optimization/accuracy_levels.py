"""Which kinds of products read their inputs in floats, chosen by what rounding them costs.

A product may round its inputs to 8 bits, which is faster. Where a few activations are massive, the
others of their group round to nothing, and the likeliest token may change (onnxruntime #29849).
Every kind of product is measured with its inputs rounded alone, since two such kinds hide each
other where both are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

SHARE = 0.1
"""Of the divergence that the weights cost alone: what rounded inputs of one kind may add."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphScore:
    """How far a graph is from the source in float32.

    Attributes:
        kl: Mean KL divergence in nats.
        top1: Share of positions with the same likeliest token.
    """

    kl: float
    top1: float


@dataclass(frozen=True, slots=True, kw_only=True)
class KindLevel:
    """What rounded inputs of one kind of product cost, and what came of it.

    Attributes:
        kind: `attn_qkv`, `attn_output`, `ffn_up_gate`, `ffn_down`, `output`, as names have it.
        rounded: With the inputs of this kind rounded, those of all others in floats.
        cost: Nats that this adds.
        able: Whether the runtime multiplies floats by the codes of all of them without widening
            the matrix for every token.
        floats: Whether inputs are left in floats.
    """

    kind: str
    rounded: GraphScore
    cost: float
    able: bool
    floats: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyResult:
    """What the inputs of products cost in 8 bits, and which were left in floats.

    Attributes:
        weights: With all inputs in floats: what the weights cost alone.
        rounded: With all inputs rounded.
        kinds: Every kind alone.
        chosen: As the artefact is now.
        share: Of the divergence of `weights` that one kind may add.
    """

    weights: GraphScore
    rounded: GraphScore
    kinds: Sequence[KindLevel]
    chosen: GraphScore
    share: float = SHARE

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    def notes(self) -> list[str]:
        """Kinds that cost more than they may, and what was done about each."""
        remarks: list[str] = []
        for kind in self.kinds:
            if kind.cost <= self.share * self.weights.kl:
                continue
            costs = (
                f"inputs of {kind.kind} rounded to 8 bits cost {kind.cost:.5f} nats beside "
                f"{self.weights.kl:.5f} of all weights"
            )
            if kind.floats:
                remarks.append(f"{costs}: they are left in floats (accuracy 0 in the plan)")
            elif kind.able:
                remarks.append(f"{costs}, and stay so: floats would be slower than was asked for")
            else:
                remarks.append(
                    f"{costs}, and stay so: onnxruntime has no fast product of floats with its "
                    "codes; groups of 16 or 4 bits (--rule) cost less"
                )
        return remarks


def over(weights: GraphScore, rounded: Mapping[str, GraphScore]) -> list[str]:
    """Kinds whose rounded inputs add more than SHARE of what the weights cost, in their order.

    Args:
        weights: With all inputs in floats.
        rounded: By kind, with the inputs of this one rounded.
    """
    return [k for k, score in rounded.items() if score.kl - weights.kl > SHARE * weights.kl]


def level_words(data: Mapping[str, Any] | None) -> str:
    """`rounded to 8 bits, but not of ffn_down: KL 0.4100 → 0.3500`; "" where not measured.

    Args:
        data: As JSON has it.
    """
    if data is None:
        return ""
    floats = [kind["kind"] for kind in data["kinds"] if kind["floats"]]
    before, after = data["rounded"], data["chosen"]
    if not floats:
        return (
            f"rounded to 8 bits: KL {before['kl']:.5f}, {data['weights']['kl']:.5f} without; "
            f"same top token {before['top1']:.1%}, {data['weights']['top1']:.1%} without"
        )
    return (
        f"rounded to 8 bits, but not of {', '.join(floats)}: KL {before['kl']:.5f} → "
        f"{after['kl']:.5f}, same top token {before['top1']:.1%} → {after['top1']:.1%}"
    )
