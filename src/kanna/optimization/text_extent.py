"""How much text files are scored on, by the size of the model.

A large model takes long for a window, and needs no more of them than a small one: what is known
from so many is in docs/benchmarks/gguf.md.
"""

from __future__ import annotations

LARGE = 1_000_000_000
"""Parameters from which on fewer windows are read."""


def probe_windows(parameters: int) -> int:
    """Windows that kinds of tensors are measured on."""
    return 4 if parameters >= LARGE else 6


def proof_windows(parameters: int) -> int | None:
    """Windows of the default text that the result is evaluated on; None: as `evaluate` does.

    They decide on no plan, and the report has the interval.
    """
    return 16 if parameters >= LARGE else None
