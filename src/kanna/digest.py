"""SHA-256 of files, read in blocks."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

_BLOCK = 1 << 20


def sha256(path: Path, each: Callable[[int], None] | None = None) -> str:
    """Hexadecimal SHA-256 of a file; `each` is told the bytes of every block."""
    digest = hashlib.sha256()
    with path.open("rb") as data:
        while block := data.read(_BLOCK):
            digest.update(block)
            if each:
                each(len(block))
    return digest.hexdigest()
