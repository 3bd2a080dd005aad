"""Errors of encoded rows times held-out inputs, in numpy or on an accelerator."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kanna._util.progress import Progress, remark
from kanna.calibration.devices import CPU, pick_device, torch_modules, within_memory
from kanna.model import F32


class HeldProducts:
    """Multiplies on a device; on the CPU from where the memory of that runs out.

    Attributes:
        device: Where it multiplies.
        remarks: What was done where memory ran out.
    """

    def __init__(self, device: str | None, progress: Progress) -> None:
        """Prepare it.

        Args:
            device: cpu, cuda or mps; None: an accelerator when there is one.
            progress: Is shown a remark where memory runs out.
        """
        self.device = CPU if device == CPU else pick_device(device)
        self._progress, self.remarks = progress, list[str]()
        self._held: tuple[F32, Any] | None = None
        self._lock = threading.Lock()

    def errors(
        self, decoded: F32, exact: F32, held: F32, rounded: F32 | None
    ) -> NDArray[np.float64]:
        """Mean square error of the products of each row, f64 [rows].

        Args:
            decoded: Rows as they are stored, [rows, columns].
            exact: As they were.
            held: Held-out inputs, [tokens, columns].
            rounded: What the runtime makes of these for the stored rows; None: it takes them so.
        """
        if self.device == CPU:
            return _errors(decoded, exact, held, rounded)

        def on_device() -> NDArray[np.float64]:
            if self.device == CPU:
                return _errors(decoded, exact, held, rounded)
            return self._errors(decoded, exact, held, rounded)

        return within_memory(on_device, self._lighten)

    def _lighten(self) -> bool:
        with self._lock:
            if self.device != CPU:
                text = f"the memory of {self.device} did not suffice to measure: on the CPU then"
                self.device, self._held = CPU, None
                self.remarks.append(text)
                remark(self._progress, text)
        return True

    def _errors(
        self, decoded: F32, exact: F32, held: F32, rounded: F32 | None
    ) -> NDArray[np.float64]:
        torch, _ = torch_modules()
        device = self.device

        def there(values: F32) -> Any:
            return torch.from_numpy(np.ascontiguousarray(values)).to(device)

        with self._lock:  # the same inputs for every encoding of a matrix
            if self._held is None or self._held[0] is not held:
                self._held = held, there(held)
            inputs = self._held[1]
        if rounded is None:
            error = there(decoded - exact) @ inputs.T
        else:
            error = there(decoded) @ there(rounded).T - there(exact) @ inputs.T
        return error.square().mean(1).cpu().numpy().astype(np.float64)


def _errors(decoded: F32, exact: F32, held: F32, rounded: F32 | None) -> NDArray[np.float64]:
    if rounded is None:
        error = (decoded - exact) @ held.T
    else:
        error = decoded @ rounded.T - exact @ held.T
    return np.square(error).mean(axis=1, dtype=np.float64)
