"""Sums of products of a site's inputs, and the fit to them, on an accelerator."""

from __future__ import annotations

from typing import Any

import numpy as np

from kanna.calibration.devices import torch_modules
from kanna.model import F32
from kanna.optimization.correction.products import DAMPING, F64, SHARE, InputProducts


def input_products(device: str) -> InputProducts:
    """Sums for a device; Metal has no numbers in double precision, so that its sums are here.

    Args:
        device: Where the inputs are.
    """
    return DeviceProducts(device=device) if device.startswith("cuda") else HostProducts()


class HostProducts(InputProducts):
    """The same of tensors, which are taken to this machine."""

    def add(self, exact: Any, given: Any, off: Any) -> None:
        """Add the tokens of a window; see InputProducts."""
        taken = [None if part is None else part.cpu().numpy() for part in (exact, given, off)]
        assert taken[0] is not None and taken[1] is not None
        super().add(taken[0], taken[1], taken[2])


class DeviceProducts(InputProducts):
    """The same with every sum on a device, in double precision."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self._device = device

    def add(self, exact: Any, given: Any, off: Any) -> None:
        """Add the tokens of a window, tensors of the device; see InputProducts."""
        self.second = self.second + (given.T @ given).double()
        self.crossed = self.crossed + (exact.T @ given).double()
        if off is not None:
            product = (off.T @ given).double()
            self.residual = product if self.residual is None else self.residual + product
        self.count += len(given)

    def off(self) -> F64 | None:
        """The sum of r y', or None."""
        return None if self.residual is None else self.residual.cpu().numpy()

    def mean_second(self) -> F32:
        """E[y y'], [columns, columns]."""
        return (self.second / self.count).float().cpu().numpy()

    def wanted(self, weight: F32, residual: F64 | None) -> F64:
        """W C + D, [rows, columns]."""
        wanted = (self._there(weight) @ (self.crossed / self.count)).cpu().numpy()
        return wanted if residual is None else wanted + residual / self.count

    def target(self, weight: F32, wanted: F64, shrink: float) -> F32:
        """SHARE of the way from the weights to the least-squares fit, [rows, columns]."""
        torch, _ = torch_modules()
        second = self.second / self.count
        diagonal = second.diagonal().clone()
        damped = (1 - shrink) * second
        damped.diagonal().copy_(diagonal + DAMPING * max(float(diagonal.mean()), 1e-30))
        there = self._there(weight)
        step = torch.linalg.solve(damped, (self._there(wanted) - there @ second).T).T
        return np.ascontiguousarray((there + SHARE * step).cpu().numpy(), np.float32)

    def errors(self, rows: F32, wanted: F64) -> F64:
        """Q H Q' - 2 Q (W C + D)' of each row: the error but for a constant, [rows]."""
        exact = self._there(rows)
        inner = exact @ (self.second / self.count) - 2 * self._there(wanted)
        return (inner * exact).sum(1).cpu().numpy()

    def _there(self, values: Any) -> Any:
        torch, _ = torch_modules()
        return torch.from_numpy(np.array(values, np.float64)).to(self._device)
