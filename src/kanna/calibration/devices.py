"""Where torch computes, and what is done where the memory of an accelerator runs out."""

from __future__ import annotations

import gc
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

from kanna._util import extras
from kanna.errors import MissingError, UsageError

T = TypeVar("T")

DEVICES = ("cpu", "cuda", "mps")
CPU = "cpu"
GROUP = 8
"""Windows that go through a layer together on an accelerator; a CPU is no faster for several."""


@dataclass(slots=True)
class _ThreadLimit:
    """Threads that torch gets, and how many it had, once it was asked."""

    threads: int
    before: int | None = None


_limit: ContextVar[_ThreadLimit | None] = ContextVar("threads of torch", default=None)


@contextmanager
def torch_threads(threads: int | None) -> Generator[None]:
    """Have torch compute on so many threads while this lasts, without loading it before it is used.

    Args:
        threads: How many; None: every core, as torch does by itself.
    """
    limit = None if threads is None else _ThreadLimit(threads)
    token = _limit.set(limit)
    try:
        yield
    finally:
        _limit.reset(token)
        if limit is not None and limit.before is not None:
            torch_modules()[0].set_num_threads(limit.before)


def torch_modules() -> tuple[Any, Any]:
    """PyTorch and transformers without their warnings. Raises MissingError."""
    try:
        import torch
        import transformers
    except ImportError as error:
        raise MissingError(
            f"calibration needs torch and transformers: {error}", todo=extras.command("torch")
        ) from error
    transformers.logging.set_verbosity_error()
    if (limit := _limit.get()) is not None and limit.before is None:
        limit.before = torch.get_num_threads()
        torch.set_num_threads(limit.threads)
    return torch, transformers


def check_device(name: str | None) -> None:
    """Raise UsageError for what is the name of no device, whatever is here."""
    kind, _, number = (name or CPU).partition(":")
    if kind not in DEVICES or (number and not number.isdecimal()):
        raise UsageError(f"no device {name!r}", expected=", ".join(DEVICES))


def pick_device(name: str | None) -> str:
    """`name`, or the accelerator that is here, or cpu.

    Raises UsageError for a device that is not here.
    """
    check_device(name)
    torch, _ = torch_modules()
    here = [CPU]
    here += ["cuda"] if torch.cuda.is_available() else []
    here += ["mps"] if torch.backends.mps.is_available() else []
    if name is None:
        return here[-1]
    kind, _, number = name.partition(":")
    count = torch.cuda.device_count() if kind == "cuda" else 1
    if kind not in here or int(number or 0) >= count:
        raise UsageError(
            f"no device {name!r} here",
            expected=", ".join(here),
            todo="see `kanna doctor` for the accelerators of this machine, and whether PyTorch "
            "was built for them",
        )
    return name


def serves(named: str | None, used: object) -> bool:
    """Whether what was computed on one device does for the device that is named, if one is.

    Args:
        named: The device that is asked for; None: any.
        used: That of an earlier run.
    """
    return named is None or named == used


def is_full(error: BaseException) -> bool:
    """Whether the memory of an accelerator ran out: CUDA has a type for it, Metal a sentence."""
    torch, _ = torch_modules()
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "MPS backend out of memory" in str(error)


def within_memory(work: Callable[[], T], lighten: Callable[[], bool]) -> T:
    """What `work` returns, begun again where the memory of its device runs out.

    Args:
        work: What is done; it may be begun several times.
        lighten: Makes the next beginning need less memory; False where nothing more can be done.
    """
    while True:
        try:
            return work()
        except RuntimeError as error:
            if not is_full(error):
                raise
            # Frames of the traceback hold the tensors that filled the memory.
            full = error.with_traceback(None)
            full.__context__ = None
        release()
        if not lighten():
            raise full


def release() -> None:
    """Give memory that nothing uses any more back to accelerators."""
    torch, _ = torch_modules()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    with suppress(AttributeError, RuntimeError):
        torch.mps.empty_cache()


def moved(value: Any, device: str) -> Any:
    """Arguments of a module with their tensors on a device.

    Args:
        value: A tensor, a container of them, or anything else, which stays as it is.
        device: Where to.
    """
    if isinstance(value, dict):
        return {name: moved(part, device) for name, part in value.items()}  # pyright: ignore
    if isinstance(value, (list, tuple)):
        return type(value)(moved(part, device) for part in value)  # pyright: ignore
    torch, _ = torch_modules()
    return value.to(device) if isinstance(value, torch.Tensor) else value
