"""When a rule of llama.cpp's mixes holds (llama-quant.cpp): conditions on a tensor's place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kanna.plan.roles import in_more_bits


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a tensor stands, as far as a rule asks.

    Attributes:
        role: What it is for, see `roles.role`.
        index: Its layer (for attn_v: its place among the tensors of its role).
        count: How many layers there are (for attn_v: tensors of its role).
        gqa: Query heads per key-value head.
        experts: 0 for a dense model.
        imatrix: Whether the importance of columns was measured.
    """

    role: str
    index: int
    count: int
    gqa: int
    experts: int
    imatrix: bool

    @property
    def early(self) -> bool:
        """Whether its layer is in the first eighth."""
        return self.index < self.count // 8

    @property
    def more_bits(self) -> bool:
        """Whether its layer is one of those that get more bits, see `roles.in_more_bits`."""
        return in_more_bits(self.index, self.count)


Condition = Callable[[Place], bool]


def always(_: Place) -> bool:
    """Every tensor of the role."""
    return True


def shared_heads(p: Place) -> bool:
    """Four or more query heads share a key-value head."""
    return p.gqa >= 4


def shared_or_experts(p: Place) -> bool:
    """Shared key-value heads, or four or more experts."""
    return p.gqa >= 4 or p.experts >= 4


def early(p: Place) -> bool:
    """The first eighth of the layers."""
    return p.early


def more_bits(p: Place) -> bool:
    """Layers that get more bits, see `roles.in_more_bits`."""
    return p.more_bits


def middle(p: Place) -> bool:
    """Layers between the first and the last eighth."""
    return p.count // 8 <= p.index < 7 * p.count // 8


def first(n: int) -> Condition:
    """The first `n` layers."""
    return lambda p: p.index < n


def without_imatrix(p: Place) -> bool:
    """The importance of columns was not measured."""
    return not p.imatrix


def early_without_imatrix(p: Place) -> bool:
    """The first eighth of the layers, without an imatrix."""
    return p.early and not p.imatrix


def early_with_imatrix(p: Place) -> bool:
    """The first eighth of the layers, with an imatrix."""
    return p.early and p.imatrix


def first_sixteenth(p: Place) -> bool:
    """The first sixteenth of the layers."""
    return p.index < p.count // 16


def early_or_eight_experts(p: Place) -> bool:
    """The first eighth, or layers with more bits in a model of eight experts."""
    return p.early or (p.experts == 8 and p.more_bits)


def eight_experts(p: Place) -> bool:
    """A model of eight experts."""
    return p.experts == 8


def few_experts(p: Place) -> bool:
    """Any model but one of eight experts."""
    return p.experts != 8
