"""Arrays in files that are mapped into memory, on a disk that has room for them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

_BLOCK = 1 << 24


def zeros(path: Path, shape: tuple[int, ...]) -> Any:
    """A new file of float32 zeros, mapped so that changes are written to it.

    All of its bytes are taken from the disk at once: a system ends the process that writes to a
    page of a mapped file for which no room is left.

    Raises:
        OSError: The disk has no room for it.
    """
    size = 4 * int(np.prod(shape, dtype=np.int64))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            for start in range(0, size, _BLOCK):
                file.write(bytes(min(_BLOCK, size - start)))
    return np.memmap(path, np.float32, "r+", shape=shape)
