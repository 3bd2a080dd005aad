"""How fast the accelerator multiplies that an optimization would run on, measured when asked for.

Nothing is known of one that was not measured: of its kind there are many, and of drivers too.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache

from kanna.calibration.devices import CPU, check_device, pick_device, torch_modules
from kanna.errors import MissingError
from kanna.hardware.accelerators import accelerators

_SIZE, _TURNS = 2048, 8


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceleratorRates:
    """What an accelerator does in a second, by the clock on the wall.

    Attributes:
        device: As PyTorch calls it.
        products: Multiplications and additions of float32 matrices.
    """

    device: str
    products: float


def accelerator_rates(device: str | None) -> tuple[AcceleratorRates | None, str]:
    """The rates of the device that torch would take, and what is not known of it.

    The rates are None on the CPU, and where nothing can be measured; the second says why then.
    Raises UsageError for a device that is not here.

    Args:
        device: cpu, cuda or mps; None: an accelerator when there is one.
    """
    check_device(device)
    if device == CPU:
        return None, ""
    here = [one.name for one in accelerators() if one.api in ("CUDA", "ROCm", "Metal")]
    if device is None and not here:
        return None, ""
    try:
        chosen = pick_device(device)
    except MissingError:
        name = device or here[0]
        return None, f"how long {name} takes is not known: PyTorch is not here to measure it"
    if chosen == CPU:
        return None, f"PyTorch was built without the driver of {here[0]}: the CPU computes"
    return _measured(chosen), ""


@cache
def _measured(device: str) -> AcceleratorRates:
    torch, _ = torch_modules()
    square = torch.ones(_SIZE, _SIZE, device=device)
    float((square @ square)[0, 0])  # loads what it needs
    begin, product = time.perf_counter(), square
    for _ in range(_TURNS):
        product = square @ square
    float(product[0, 0])  # waits until all of them are through
    seconds = max(time.perf_counter() - begin, 1e-6)
    return AcceleratorRates(device=device, products=2 * _TURNS * _SIZE**3 / seconds)
