"""The damped second moment and the factors of error feedback, on a device.

As methods/hessian.py has them, by torch's own Cholesky factorization in double precision. Where a
device has no double precision (Apple's), they are computed on the CPU and carried over.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np

from kanna.methods.hessian import DAMPING, I32, HessianBlock, SecondMoment, order_of
from kanna.model import F32

_CACHE_SIZE = 2
"""Second moments that stay on a device: tensors that share inputs follow one another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceMoment:
    """The damped second moment of the columns [start, stop), on a device.

    Attributes:
        h: float32 [n, n].
        m: Factors, float32 [n, n], of columns in their order; zero on and below the diagonal.
        order: The columns as they are rounded, int64 [n].
        place: Where in the order each column is, int64 [n].
    """

    start: int
    stop: int
    h: Any
    m: Any
    order: Any
    place: Any


_lock = Lock()
_cache: OrderedDict[tuple[SecondMoment, str], list[DeviceMoment]] = OrderedDict()


def moments_on(second_moment: SecondMoment, device: str) -> list[DeviceMoment]:
    """The damped blocks of a second moment, on a device; those of the last sites stay there."""
    key = second_moment, device
    with _lock:
        if key in _cache:
            _cache.move_to_end(key)
            return _cache[key]
        while len(_cache) >= _CACHE_SIZE:
            _cache.popitem(last=False)
        _cache[key] = _made(second_moment, device)
        return _cache[key]


def factorize(hessian: F32, order: I32, device: str) -> F32 | None:
    """Factors of a damped second moment for the native code, computed on a device."""
    import torch

    factors = _factors(
        torch.from_numpy(hessian).to(device), torch.from_numpy(order).to(device, torch.int64)
    )
    return None if factors is None else factors.cpu().numpy()


def forget() -> None:
    """Give the memory of all of them back."""
    with _lock:
        _cache.clear()


def _made(second_moment: SecondMoment, device: str) -> list[DeviceMoment]:
    if device.startswith("mps"):
        return [_carried(block, device) for block in second_moment.blocks()]
    out: list[DeviceMoment] = []
    start = 0
    for block in second_moment.measured():
        out.append(_factorized(block, start, second_moment.shrink, device))
        start = out[-1].stop
    return out


def _carried(block: HessianBlock, device: str) -> DeviceMoment:
    import torch

    order, factors = block.factors_for(1)
    assert factors is not None, "a damped second moment has factors"
    m = torch.from_numpy(factors).to(device)
    m.fill_diagonal_(0)
    return _moment(block.start, torch.from_numpy(block.hessian).to(device), m, order)


def _moment(start: int, h: Any, m: Any, order: Any) -> DeviceMoment:
    import torch

    order = torch.as_tensor(order, dtype=torch.int64, device=h.device)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=h.device)
    return DeviceMoment(start=start, stop=start + len(h), h=h, m=m, order=order, place=place)


def _factorized(block: F32, start: int, shrink: float, device: str) -> DeviceMoment:
    """Shrink toward the diagonal, and damp until there are factors."""
    import torch

    diagonal = np.array(block.diagonal(), np.float32)
    level = float(diagonal.mean(dtype=np.float64)) or 1.0
    # The damping is the same for all columns, so that it does not change their order.
    order = torch.from_numpy(order_of(diagonal, 1)).to(device=device, dtype=torch.int64)
    h = torch.from_numpy(np.ascontiguousarray(block)).to(device, torch.float32, copy=True)
    h *= float(np.float32(1 - shrink))
    own = torch.from_numpy(diagonal).to(device)
    damping = DAMPING
    while True:
        h.diagonal().copy_(own + damping * level)
        m = _factors(h, order)
        if m is not None:
            m.fill_diagonal_(0)
            return _moment(start, h, m, order)
        damping *= 2


def _factors(h: Any, order: Any) -> Any | None:
    """M of native/include/kanna/factors.hpp, or None."""
    import torch

    # H = R R' with R upper is the Cholesky factor of H read backwards.
    backwards = order.flip(0)
    factor, wrong = torch.linalg.cholesky_ex(h[backwards][:, backwards].double())
    if int(wrong) or not bool(torch.isfinite(factor.diagonal()).all()):
        return None
    diagonal = factor.diagonal().clone()
    factor /= diagonal
    factor.diagonal().copy_(diagonal.square_())
    return factor.float().flip(0, 1).contiguous()
