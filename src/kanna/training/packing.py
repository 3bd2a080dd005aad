"""Short examples in one row, in the place of padding: which go together, and what that saves.

A step learns from as many examples as without. They stand behind one another in rows, and the
positions of each begin at 0, by which transformers lets none see another one (`packed_attention`).
TRL's own packing makes rows of all data before the first step: a step then learns from as many
rows, which are some times as many examples, and its collator joins them into one row, whose
attention costs the square of all their tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from kanna.training.tokens import UNLEARNED, TokenizedExample

LEAST = 0.1
"""Of the tokens that a model computes, what packing must save where nobody asked for it."""
_MEASURED = 4096
"""Batches by which that is told."""
E = TypeVar("E", bound=TokenizedExample)
_READ = ("input_ids", "attention_mask", "position_ids")


@dataclass(frozen=True, slots=True, kw_only=True)
class Padding:
    """How much of what a model computes is padding.

    Attributes:
        batch: Examples of a step.
        row_length: Tokens of a packed row at most.
        read: Tokens of examples.
        padded: The same with the padding of batches, each as wide as its longest example.
        packed: The same with that of packed rows.
    """

    batch: int
    row_length: int
    read: int
    padded: int
    packed: int

    @property
    def saved(self) -> float:
        """Share of the tokens with padding that packing saves."""
        return 1 - self.packed / self.padded

    def is_wanted(self, asked: bool | None) -> bool:
        """Whether examples are packed, where attention can.

        Args:
            asked: What was asked for; None: where enough is saved.
        """
        return self.saved > LEAST if asked is None else asked

    def line(self, asked: bool | None) -> str:
        """What people read of it."""
        padded, packed = (1 - self.read / tokens for tokens in (self.padded, self.packed))
        decided = "packed" if self.is_wanted(asked) else "not packed"
        return (
            f"Padding: {padded:.0%} of a batch of {self.batch}, {packed:.0%} where its examples "
            f"are packed into rows of at most {self.row_length:,} tokens; they are {decided}."
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PackingChoice:
    """Whether examples are packed.

    Attributes:
        used: Whether they are.
        refusal: Why they are not, though it was asked for or would save much; "": nothing forbids.
        padding: What it saves.
    """

    used: bool
    refusal: str
    padding: Padding

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def choose(
    asked: bool | None, padding: Padding | None, refusal: Callable[[], str]
) -> PackingChoice | None:
    """Whether examples are packed; None where they are pairs.

    Args:
        asked: What was asked for; None: where enough is saved.
        padding: What packing saves; None of pairs.
        refusal: Says why the model cannot; "" where it can.
    """
    if padding is None:
        return None
    why = refusal() if padding.is_wanted(asked) else ""
    return PackingChoice(used=padding.is_wanted(asked) and not why, refusal=why, padding=padding)


def notes(choice: Mapping[str, Any]) -> list[str]:
    """What the user must know of it, as sentences without a full stop.

    Args:
        choice: `PackingChoice.to_dict()`; {} where nothing could be packed.
    """
    why = choice.get("refusal")
    return [f"examples are padded, not packed: {why}"] if why else []


def measure(lengths: Sequence[int], batch: int, most: int, seed: int) -> Padding:
    """Measure padding in batches of an order that is as good as any.

    Args:
        lengths: Tokens of every example, cut.
        batch: Examples of a step.
        most: Tokens of a row at most.
        seed: Of the order.
    """
    order = np.random.default_rng(seed).permutation(len(lengths))[: batch * _MEASURED]
    read = padded = packed = 0
    for start in range(0, len(order), batch):
        together = [lengths[place] for place in order[start : start + batch]]
        read += sum(together)
        padded += len(together) * max(together)
        packed += _computed(together, rows(together, most))
    return Padding(batch=batch, row_length=most, read=read, padded=padded, packed=packed)


def rows(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Which examples share a row, by their places.

    Into rows as long as the longest example or of `most` tokens, by which fewer are computed.

    Args:
        lengths: Tokens of every example; none has more than `most`.
        most: Tokens of a row at most.
    """
    fillings = [_first_fit(lengths, room) for room in (max(lengths), most)]
    return min(fillings, key=lambda filling: _computed(lengths, filling))


def _first_fit(lengths: Sequence[int], room: int) -> list[list[int]]:
    """First-fit decreasing: each example, the longest first, into the first row that has room."""
    filled: list[list[int]] = []
    left: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda at: -lengths[at]):
        row = next((at for at, free in enumerate(left) if free >= lengths[place]), len(left))
        if row == len(left):
            filled.append([])
            left.append(room)
        filled[row].append(place)
        left[row] -= lengths[place]
    return filled


def _computed(lengths: Sequence[int], filling: Sequence[Sequence[int]]) -> int:
    """Tokens of all rows, each as wide as the widest."""
    return len(filling) * max(sum(lengths[place] for place in row) for row in filling)


def packed(examples: Sequence[E], most: int | None) -> list[list[E]]:
    """Examples by rows; one in each, in their order, where `most` is None.

    Args:
        examples: Those that are read together.
        most: Tokens of a row at most; None: they are not packed.
    """
    if most is None:
        return [[one] for one in examples]
    filling = rows([len(one.ids) for one in examples], most)
    return [[examples[place] for place in row] for row in filling]


def arrays(filled: Sequence[Sequence[TokenizedExample]]) -> dict[str, NDArray[np.int64]]:
    """Rows as a model reads them, padded on the right.

    No first token of an example is learned: what stands before it is of another one.

    Args:
        filled: Examples by rows.

    Returns:
        input_ids, labels and position_ids, [rows, tokens].
    """
    width = max(sum(len(one.ids) for one in row) for row in filled)
    ids = np.zeros((len(filled), width), np.int64)
    labels = np.full_like(ids, UNLEARNED)
    positions = np.zeros_like(ids)
    for at, row in enumerate(filled):
        start = 0
        for one in row:
            stop = start + len(one.ids)
            ids[at, start:stop], labels[at, start:stop] = one.ids, one.labels
            labels[at, start] = UNLEARNED
            positions[at, start:stop] = np.arange(stop - start)
            start = stop
        positions[at, start:] = np.arange(width - start)
    return {"input_ids": ids, "labels": labels, "position_ids": positions}


def read_by_models(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Of a batch what a model reads: no attention mask where positions keep examples apart.

    Args:
        inputs: The batch.
    """
    return {name: inputs[name] for name in _READ if name in inputs}


def collator(most: int | None) -> Any:
    """Makes batches of packed rows of records of `datasets`; None: TRL's own, which pads.

    Args:
        most: Tokens of a row at most; None: nothing is packed.
    """
    if most is None:
        return None

    def collate(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        import torch

        examples = [TokenizedExample(ids=r["input_ids"], labels=r["labels"]) for r in records]
        batch = arrays(packed(examples, most))
        return {name: torch.from_numpy(array) for name, array in batch.items()}

    return collate
