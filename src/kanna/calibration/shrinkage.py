"""Shrinkage of a second moment toward its diagonal, chosen by text that is held out of it.

An expert sees fewer tokens than its layer. Its second moment is first moved toward that of all
experts together, which counts as so many further tokens: what was measured on n tokens has the
share n / (n + shared). How many is chosen by the same text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kanna import encodings, methods
from kanna.calibration.devices import CPU
from kanna.families.stacked import one_of
from kanna.hardware.cpu import default_threads
from kanna.methods.hessian import SecondMoment
from kanna.model import F32, Tensor, columns, num_rows

CHOICES = (0.05, 0.1, 0.2, 0.4)
DEFAULT = 0.2
"""Shrinkage without held-out text."""
ROWS = 48
"""Rows of a tensor that are quantized to compare choices."""


SHARED = (16, 128, 1024)
DEFAULT_SHARED = 128
"""What the second moment of all experts counts for without held-out text, in tokens."""
EXPERTS, LEAST_HELD = 4, 8
"""Experts that decide at most, and held-out inputs that each of them must have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertInputs:
    """What is known of the inputs of the experts of one site.

    Attributes:
        second: Second moment of all together, f32 [blocks, n, n].
        each: That of each, f32 [experts, blocks, m, m].
        tokens: Tokens that went to each, int64 [experts].
        held: Held-out inputs, f16 or f32 [tokens, columns].
        routes: Experts that these go to, int32 [tokens, experts of a token].
    """

    second: F32
    each: F32
    tokens: Any
    held: F32
    routes: Any

    @classmethod
    def of(cls, site: str, arrays: Mapping[str, Any]) -> ExpertInputs:
        """Out of the arrays of a file of statistics."""
        names = {"each": "experts"}
        parts = {f: arrays[f"{site}.{names.get(f, f)}"] for f in cls.__slots__}
        return cls(**parts)

    def held_by(self, expert: int) -> F32:
        """Held-out inputs of one expert, f32 [tokens, columns]."""
        mine = (self.routes == expert).any(axis=1)
        return self.held[mine[: len(self.held)]].astype(np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """How far the second moments of experts are believed.

    Attributes:
        shrink: Shrinkage toward the diagonal.
        shared: Tokens that the second moment of all experts counts for.
    """

    shrink: float = DEFAULT
    shared: float = DEFAULT_SHARED


def blended(second: F32, each: F32, tokens: int, shared: float) -> F32:
    """Second moment of one expert, moved toward that of all.

    Args:
        second: That of all, f32 [blocks, n, n].
        each: What was measured for this one, f32 [blocks, m, m], with m a divisor of n.
        tokens: On so many tokens.
        shared: Tokens that `second` counts for.

    Returns:
        f32 [blocks, m, m].
    """
    share = np.float32(tokens / (tokens + shared))
    size = each.shape[1]
    parts = [block[a : a + size, a : a + size] for block in second for a in _starts(block, size)]
    return share * each + (1 - share) * np.stack(parts)


def _starts(block: F32, size: int) -> range:
    return range(0, len(block), size)


def choose_for_experts(stacks: Sequence[Tensor], inputs: ExpertInputs, device: str = CPU) -> Trust:
    """The two numbers with the least error on the held-out inputs of some experts.

    Experts that saw many tokens and few count the same.

    Args:
        stacks: Matrices [experts, rows, columns] that read these inputs.
        inputs: What is known of them.
        device: Where error feedback runs.
    """
    able = [e for e in range(len(inputs.each)) if len(inputs.held_by(e)) >= LEAST_HELD]
    if not able or _encoding(stacks[0]) is None:
        return Trust()
    able.sort(key=lambda e: int(inputs.tokens[e]))
    experts = {able[i] for i in np.linspace(0, len(able) - 1, min(EXPERTS, len(able))).astype(int)}
    rows = {e: np.concatenate([_rows(one_of(t.name, t, e)) for t in stacks]) for e in experts}

    def cost(trust: Trust) -> list[float]:
        return [
            _error(
                stacks[0],
                rows[e],
                blended(inputs.second, inputs.each[e], int(inputs.tokens[e]), trust.shared),
                inputs.held_by(e),
                trust.shrink,
                device,
            )
            for e in sorted(experts)
        ]

    best = _least([Trust(shared=shared) for shared in SHARED], cost)
    return _least([Trust(shrink=shrink, shared=best.shared) for shrink in CHOICES], cost)


def _least(choices: Sequence[Trust], cost: Callable[[Trust], list[float]]) -> Trust:
    costs = np.array([cost(choice) for choice in choices])
    level = np.maximum(costs.mean(axis=0), 1e-30)
    return choices[int((costs / level).sum(axis=1).argmin())]


def choose(tensors: list[Tensor], second: F32, held: F32, device: str = CPU) -> float:
    """Shrinkage among CHOICES with the least error on the held-out inputs.

    Some rows of each tensor are quantized to four bits under each choice; compared is the mean
    square of the error of their products with the held-out inputs.

    Args:
        tensors: Matrices that read these inputs.
        second: The second moment, f32 [blocks, n, n], in blocks along the diagonal.
        held: Held-out inputs, f16 or f32 [tokens, columns].
        device: Where error feedback runs.
    """
    if len(held) == 0 or _encoding(tensors[0]) is None:
        return DEFAULT
    x = np.concatenate([_rows(t) for t in tensors])
    inputs = held.astype(np.float32)
    costs = {shrink: _error(tensors[0], x, second, inputs, shrink, device) for shrink in CHOICES}
    return min(costs, key=lambda s: costs[s])


def _encoding(tensor: Tensor) -> encodings.Encoding | None:
    """Four bits, in blocks that divide the rows; None where nothing does."""
    cols = columns(tensor)
    encoding = encodings.get("q4_k" if cols % 256 == 0 else "q4_0")
    return None if cols % encoding.block else encoding


def _error(tensor: Tensor, x: F32, second: F32, held: F32, shrink: float, device: str) -> float:
    """Mean square error of the products of rows `x` with held-out inputs, quantized under H."""
    encoding = _encoding(tensor)
    assert encoding is not None
    weights = np.concatenate([b.diagonal() for b in second]).astype(np.float32)
    moment = SecondMoment(lambda: list(second), shrink=shrink, device=device)
    inputs = methods.Inputs(weights=weights, second_moment=moment)
    data = methods.get("gptq").encode(encoding, x, inputs, threads=default_threads())
    out = (encoding.decode(data, x.shape[1]) - x) @ held.T
    return float(np.mean(np.square(out), dtype=np.float64))


def _rows(tensor: Tensor) -> F32:
    """ROWS rows at most, evenly spaced, float32 [rows, columns]."""
    total = num_rows(tensor)
    at = np.unique(np.linspace(0, total - 1, min(ROWS, total)).astype(int))
    return np.concatenate([tensor.rows(int(i), int(i) + 1) for i in at])
