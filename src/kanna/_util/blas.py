"""Threads of the library that multiplies for numpy.

Its threads wait for one another by spinning: under other work on the cores, a small product takes
many times the processor time that it takes alone. Where several of our own threads multiply, one
each is enough.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import numpy as np

_PREFIXES, _SUFFIXES = ("scipy_openblas", "openblas"), ("64_", "")
"""What numpy's wheels put around the names of OpenBLAS's functions."""


@contextmanager
def one_thread() -> Generator[None]:
    """Have numpy multiply on one thread while this lasts; nothing where it has another library."""
    functions = _functions()
    if functions is None:
        yield
        return
    get, put = functions
    before = get()
    put(1)
    try:
        yield
    finally:
        put(before)


@cache
def _functions() -> tuple[Callable[[], int], Callable[[int], object]] | None:
    """How many threads OpenBLAS has, and setting it."""
    package = Path(np.__file__).parent
    for folder in (package.parent / "numpy.libs", package / ".dylibs"):
        for path in sorted(folder.glob("*openblas*")):
            with suppress(OSError):
                library = ctypes.CDLL(str(path))
                for prefix in _PREFIXES:
                    for suffix in _SUFFIXES:
                        names = [f"{prefix}_{verb}_num_threads{suffix}" for verb in ("get", "set")]
                        if all(hasattr(library, name) for name in names):
                            get, put = (getattr(library, name) for name in names)
                            put.argtypes = [ctypes.c_int]
                            return get, put
    return None
