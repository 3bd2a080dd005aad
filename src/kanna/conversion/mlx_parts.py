"""Stacks that mlx-lm has as a module for each matrix, and tensors that it loads and never reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from kanna.encodings import Encoding
from kanna.families.stacked import one_of
from kanna.families.views import Computed
from kanna.plan import TensorPlan


def apart(entries: Sequence[TensorPlan], stacks: tuple[str, ...]) -> list[TensorPlan]:
    """The entries with one for each matrix of a stack.

    Args:
        entries: What becomes of each tensor.
        stacks: Ends of the names of those stacks.
    """
    out: list[TensorPlan] = []
    for entry in entries:
        if not entry.name.endswith(stacks or ("\0",)):
            out.append(entry)
            continue
        module = entry.name.removesuffix(".weight")
        for number in range(entry.tensor.shape[0]):
            name = f"{module}.{number}.weight"
            out.append(replace(entry, name=name, tensor=one_of(name, entry.tensor, number)))
    return out


def zeros(shapes: Mapping[str, tuple[int, ...]], number: Encoding) -> list[TensorPlan]:
    """Entries of zeros.

    Args:
        shapes: By name.
        number: A floating type.
    """
    return [
        TensorPlan(
            name=name,
            tensor=Computed(name, np.zeros(shape, np.float32)),
            encoding=number,
            method="nearest",
        )
        for name, shape in shapes.items()
    ]
