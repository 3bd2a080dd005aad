"""Cleaning up to the end: a signal that comes meanwhile is delivered after it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

_NUMBERS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def uninterrupted() -> Generator[None]:
    """Hold Ctrl-C and SIGTERM back for the length of a short block of the main thread.

    Without it, a signal that comes while a file is removed leaves the file. Signals that are
    ignored stay so.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Python's handlers run in the main thread alone
        return
    pending: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        pending.append(number)

    before = {n: signal.getsignal(n) for n in _NUMBERS}
    held = {n: handler for n, handler in before.items() if handler not in (None, signal.SIG_IGN)}
    for number in held:
        signal.signal(number, note)
    try:
        yield
    finally:
        for number, handler in held.items():
            signal.signal(number, handler)
        for number in pending[:1]:
            signal.raise_signal(number)
