"""Ctrl-C and SIGTERM: what is under way is given up, whatever a library makes of it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

_received: list[type[KeyboardInterrupt]] = []


class Terminated(KeyboardInterrupt):
    """SIGTERM came: what is under way is given up as after Ctrl-C."""


@contextmanager
def ending_orderly() -> Generator[None]:
    """Have SIGTERM raise `Terminated` in the main thread, once: the next one ends at once.

    Ctrl-C raises KeyboardInterrupt as always. What an error makes of either is raised as that
    again. Whoever ignores a signal, or handles it, goes on doing so.

    Raises:
        KeyboardInterrupt: A signal came, and an error followed.
    """

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        _received.append(KeyboardInterrupt)
        raise KeyboardInterrupt

    def terminate(number: int, _frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        _received.append(Terminated)
        raise Terminated

    ours = {
        signal.SIGINT: (signal.default_int_handler, interrupt),
        signal.SIGTERM: (signal.SIG_DFL, terminate),
    }
    main = threading.current_thread() is threading.main_thread()
    taken = {n: h for n, h in ours.items() if main and signal.getsignal(n) == h[0]}
    for number, (_, handler) in taken.items():
        signal.signal(number, handler)
    try:
        with not_an_error():
            yield
    finally:
        for number, (before, _) in taken.items():
            signal.signal(number, before)
        if taken:
            answered()


@contextmanager
def not_an_error() -> Generator[None]:
    """Raise what a signal raised where a library has made an error of it.

    An import that Ctrl-C cuts short is caught by some package now and then, and fails a
    moment later, with a module that is half there.
    """
    try:
        yield
    except Exception as error:
        if _received:
            raise _received[-1] from error
        raise


def answered() -> None:
    """Forget the signals so far: what went on after them fails for reasons of its own."""
    _received.clear()
