"""Devices that tests run on: a CUDA device where there is one, and a stand-in for it everywhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

STAND_IN = "cpu:0"
"""PyTorch's other name of the CPU: kanna takes it for an accelerator, which is what is tested."""
EACH = [
    pytest.param(STAND_IN, id="stand-in"),
    pytest.param("cuda", id="cuda", marks=pytest.mark.gpu),
]
"""For parametrize: `pytest -m gpu` runs what is on CUDA, and nothing else."""


def require(device: str) -> None:
    """Skip this test where PyTorch sees no such device."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("PyTorch sees no CUDA device")


def native_feedback(patch: pytest.MonkeyPatch) -> None:
    """Let error feedback of the stand-in be native code: torch takes long for it on a CPU."""
    from kanna.methods import device

    real = device.better_rows

    def better_rows(name: str, x: Any, data: Any, second_moment: Any, **settings: Any) -> Any:
        if second_moment.device == STAND_IN:
            return None
        return real(name, x, data, second_moment, **settings)

    patch.setattr(device, "better_rows", better_rows)


def fills(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, *calls: int) -> list[int]:
    """Let the memory of the accelerator run out in some calls of a function.

    Args:
        monkeypatch: That of the test.
        owner: A class or module.
        name: Of its function.
        calls: Numbers of the calls that raise, from 0.

    Returns:
        Numbers of all calls so far.
    """
    import torch

    real: Callable[..., Any] = getattr(owner, name)
    seen: list[int] = []

    def called(*args: Any, **kwargs: Any) -> Any:
        seen.append(len(seen))
        if seen[-1] in calls:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB")
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, called)
    return seen
