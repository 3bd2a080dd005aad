"""How fast one core of this machine does what the stages of an optimization are made of.

Measured once in about two seconds, in CPU seconds, so that other work on the machine counts little,
and kept in the cache folder under what it depends on.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path

import numpy as np

from kanna import __version__, encodings, methods
from kanna._util import folders, own_files, verified
from kanna.errors import KannaError
from kanna.hardware.cpu import cpu
from kanna.methods.hessian import SecondMoment
from kanna.model import F32
from kanna.optimization.forecast.accelerator import AcceleratorRates

_ROWS, _COLUMNS = 64, 1024
_DISK_BYTES = 32 << 20
_PYTHON_STEPS = 300_000
_SECONDS = 0.12
"""Of each measurement."""
REFERENCE_PYTHON = 23.5e6
"""Steps per second of the machine on which fixed times of stages were measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineRates:
    """What one core does in a CPU second; the disk by the clock on the wall.

    Attributes:
        products: Multiplications and additions of float32 matrices.
        feedback: Weights times columns that error feedback goes through, see methods/gptq.py.
        search: Weights that `search` encodes as Q4_K.
        factor: Cubed columns of a second moment that is factored.
        copied: Bytes read and written again.
        disk: Bytes that are written and synced.
        python: Steps of a loop in Python.
        accelerator: Where torch multiplies in place of the CPU; None: there is none, or nothing is
            known of it.
    """

    products: float
    feedback: float
    search: float
    factor: float
    copied: float
    disk: float
    python: float
    accelerator: AcceleratorRates | None = None

    @property
    def slowness(self) -> float:
        """How much longer Python takes here than where fixed times were measured."""
        return REFERENCE_PYTHON / self.python

    def in_torch(self, seconds: float) -> tuple[float, float]:
        """CPU seconds of products in torch, as those of the CPU and those of the accelerator."""
        if self.accelerator is None:
            return seconds, 0.0
        return 0.0, seconds * self.products / self.accelerator.products


_KEPT = [field.name for field in fields(MachineRates) if field.name != "accelerator"]


def machine_rates() -> MachineRates:
    """The rates of this machine, measured unless they are kept from before."""
    path = _place()
    if (kept := _kept(path)) is not None:
        return kept
    rates = _measured()
    with suppress(OSError, KannaError):
        kept = {name: getattr(rates, name) for name in _KEPT}
        verified.keep(path, json.dumps(kept, indent=1) + "\n")
    return rates


def _place() -> Path:
    processor = cpu()
    known = [__version__, processor.model, sorted(processor.flags)]
    mark = hashlib.sha256(json.dumps(known).encode()).hexdigest()[:16]
    return folders.cache_folder() / "machine-rates" / f"{mark}.json"


def _kept(path: Path) -> MachineRates | None:
    """What is kept; None where it is not, or is not what was written."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        if verified.unchanged(path):
            saved = json.loads(path.read_text(encoding="utf-8"))
            values = {name: float(saved[name]) for name in _KEPT}
            if all(0 < value < 1e18 for value in values.values()):
                return MachineRates(accelerator=None, **values)
    return None


@cache
def _measured() -> MachineRates:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((_COLUMNS + 200, _COLUMNS), dtype=np.float32)
    moment: F32 = x.T @ x / np.float32(len(x))
    rows = x[:_ROWS].copy()
    weights = moment.diagonal().copy()

    def load() -> list[F32]:
        return [moment]

    second_moment = SecondMoment(load, shrink=0.1)
    factor = _cpu(second_moment.blocks)
    encoding, gptq = encodings.get("q4_k"), methods.get("gptq")
    search = _best(lambda: encoding.encode(rows, method="search", weights=weights))
    inputs = methods.Inputs(weights=weights, second_moment=second_moment)
    both = _best(lambda: gptq.encode(encoding, rows, inputs))
    size = rows.size
    return MachineRates(
        products=_products(x[:512].copy()),
        feedback=size * _COLUMNS / max(both - search, 1e-9),
        search=size / search,
        factor=_COLUMNS**3 / factor,
        copied=_copied(),
        disk=_disk(),
        python=_PYTHON_STEPS / _best(_loop),
    )


def _products(x: F32) -> float:
    """Float32 operations per CPU second, in torch on one thread, or in numpy without it."""
    try:
        import torch
    except ImportError:
        return 2 * len(x) * _COLUMNS**2 / _best(lambda: np.matmul(np.matmul(x, x.T), x))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        given, square = torch.from_numpy(x), torch.ones(_COLUMNS, _COLUMNS)
        return 2 * len(x) * _COLUMNS**2 / _best(lambda: given @ square)
    finally:
        torch.set_num_threads(threads)


def _copied() -> float:
    """Bytes per CPU second, of more than caches hold."""
    given, taken = np.ones(_DISK_BYTES // 4, np.float32), np.empty(_DISK_BYTES // 4, np.float32)
    return _DISK_BYTES / _best(lambda: np.copyto(taken, given))


def _loop() -> None:
    total = 0
    for step in range(_PYTHON_STEPS):
        total += step * step


def _disk() -> float:
    """Bytes per second, by the clock on the wall, of a file in the cache folder."""
    data = os.urandom(_DISK_BYTES)
    folder = folders.cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with own_files.scratch(folder, "disk") as scratch:
            begin = time.perf_counter()
            with (scratch / "data").open("wb", buffering=0) as file:
                file.write(data)
                os.fsync(file.fileno())
            return _DISK_BYTES / max(time.perf_counter() - begin, 1e-6)
    except OSError:
        return 1e8


def _cpu(work: Callable[[], object]) -> float:
    begin = time.process_time()
    work()
    return max(time.process_time() - begin, 1e-6)


def _best(work: Callable[[], object]) -> float:
    """CPU seconds of the fastest of some runs; the first one only warms up."""
    work()
    end = time.process_time() + _SECONDS
    best = _cpu(work)
    while time.process_time() < end:
        best = min(best, _cpu(work))
    return best
