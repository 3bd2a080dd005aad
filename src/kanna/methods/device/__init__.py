"""Error feedback on an accelerator, through torch.

kanna.methods.gptq asks for it where a second moment says so (`SecondMoment.device`). What a grid or
a device lacks stays with the native code, and is told once.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from kanna._util import extras
from kanna.errors import MissingError, UsageError
from kanna.methods.device.grids import grid_of
from kanna.methods.device.remarks import remarks
from kanna.methods.hessian import I32, Factorize, SecondMoment, factorize
from kanna.model import F32, U8

__all__ = [
    "BLOCK_WEIGHTS",
    "CPU",
    "LEAST_ROWS",
    "better_rows",
    "factorizer",
    "has_grid",
    "pick",
    "remarks",
]

CPU = "cpu"
BLOCK_WEIGHTS = 1 << 26
"""Weights of the rows that go to a device together, many more than a CPU encodes at once."""
LEAST_ROWS = 256
"""Fewer rows stay with the CPU: starting kernels takes longer than they do there."""
_LEAST_TILE = 64
"""Where so few rows do not fit the memory of a device, nothing does."""
_one_at_a_time = Lock()


def pick(name: str | None) -> str:
    """Where error feedback runs.

    Args:
        name: `cpu`, `cuda`, `cuda:1` or `mps`; None: an accelerator when there is one.

    Raises:
        UsageError: There is no such device here.
        MissingError: torch is not installed.
    """
    if name == CPU or (name is None and not _may_be_here()):
        return CPU
    if find_spec("torch") is None:
        if name is None:
            return CPU
        raise MissingError(f"--device {name} needs torch", todo=extras.command("torch"))
    here = _devices()
    if name is None:
        return here[-1]
    kind, _, index = name.partition(":")
    if kind not in here or (index and not _counts(kind, index)):
        raise UsageError(f"no device {name!r} here", expected=", ".join(here))
    return name


@cache
def _devices() -> tuple[str, ...]:
    """The CPU, and the accelerator that torch finds."""
    import torch

    if torch.cuda.is_available():
        return CPU, "cuda"
    return (CPU, "mps") if torch.backends.mps.is_available() else (CPU,)


def _counts(kind: str, index: str) -> bool:
    import torch

    count = torch.cuda.device_count() if kind == "cuda" else 1
    return index.isdigit() and int(index) < count


@cache
def _may_be_here() -> bool:
    """Whether an accelerator may be here: torch, which knows, takes seconds to import."""
    if "torch" in sys.modules:
        return True
    if sys.platform == "darwin":
        return platform.machine() == "arm64"
    if sys.platform == "win32":
        return (Path(os.environ.get("SYSTEMROOT", "C:/Windows")) / "System32/nvcuda.dll").exists()
    return any(Path(place).exists() for place in ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg"))


def has_grid(name: str) -> bool:
    """Whether an encoding, by the name error feedback knows it by, can go to a device."""
    return grid_of(name) is not None


def factorizer(device: str) -> Factorize:
    """What computes the factors for the native code, on a device with double precision or here."""
    if device == CPU or device.startswith("mps"):
        return factorize

    def computed(hessian: F32, order: I32) -> F32 | None:
        from kanna.methods.device import moments

        with _one_at_a_time:
            try:
                return moments.factorize(hessian, order, device)
            except RuntimeError as error:
                if not _is_out_of_memory(error):
                    raise
                moments.forget()
        return factorize(hessian, order)

    return computed


def better_rows(
    name: str, x: F32, data: U8, second_moment: SecondMoment, *, passes: int, rounds: int
) -> U8 | None:
    """`data` with every row that error feedback betters.

    Args:
        name: The encoding, as error feedback knows it.
        x: What the rows should be, float32 [rows, columns].
        data: Where to begin, uint8 [rows, row bytes]; it is left as it is.
        second_moment: Of the inputs; its device is where it runs.
        passes: Passes of rounding in order.
        rounds: Rounds of coordinate descent in each.

    Returns:
        uint8 [rows, row bytes], or None where the device has no grid for it, or too little memory.
    """
    from kanna.methods.device import feedback, moments

    device, grid = second_moment.device, grid_of(name)
    if grid is None:
        remarks.add(f"{name} has no grid on {device}: gptq runs on the CPU for it")
        return None
    out = np.empty_like(data)
    with _one_at_a_time, _current(device):
        try:
            for moment in moments.moments_on(second_moment, device):
                work = partial(feedback.improved, grid, moment, passes=passes, rounds=rounds)
                columns = slice(moment.start, moment.stop)
                first, last = (
                    at // grid.block * grid.block_bytes for at in (columns.start, columns.stop)
                )
                _by_tiles(work, x[:, columns], data[:, first:last], out[:, first:last], device)
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
            moments.forget()
            remarks.add(
                f"{device} has too little memory for gptq of rows of {x.shape[1]} values: the CPU"
                " takes them"
            )
            return None
    return out


def _current(device: str) -> AbstractContextManager[object]:
    """Where Triton starts kernels: on CUDA's current device, whichever one tensors are on."""
    import torch

    return torch.cuda.device(device) if device.startswith("cuda") else nullcontext()


def _by_tiles(work: Callable[[Any, Any], Any], x: F32, data: U8, out: U8, device: str) -> None:
    """RowsAtWork on all rows, with fewer of them at a time where memory does not suffice."""
    import torch

    start, step = 0, len(x)
    while start < len(x):
        rows = slice(start, min(start + step, len(x)))
        try:
            w, begin = (
                torch.from_numpy(np.ascontiguousarray(part[rows])).to(device) for part in (x, data)
            )
            out[rows] = work(w, begin).cpu().numpy()
        except RuntimeError as error:
            if step <= _LEAST_TILE or not _is_out_of_memory(error):
                raise
            step = max(_LEAST_TILE, step // 2)
            continue
        start = rows.stop


def _is_out_of_memory(error: RuntimeError) -> bool:
    import torch

    known: Any = getattr(torch, "OutOfMemoryError", torch.cuda.OutOfMemoryError)
    return isinstance(error, known) or "out of memory" in str(error).lower()
