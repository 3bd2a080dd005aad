"""Models that came as packages, in kanna's cache."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from kanna import sources
from kanna._util.disk import states
from kanna._util.folders import cache_folder
from kanna.sources import packages
from kanna.storage.base import StoredModel


def place(name: str) -> Path | None:
    """Where a built-in model lies when it was fetched; None for one that is not kept there."""
    file = packages.FILES.get(name)
    return cache_folder() / file if file else None


def models() -> Iterator[StoredModel]:
    """The built-in models that were fetched."""
    for name in sources.BUILTIN:
        path = place(name)
        if path is not None and path.exists():
            yield StoredModel(
                reference=f"builtin:{name}",
                store="package",
                num_bytes=num_bytes(path),
                path=str(path),
                last_used=path.stat().st_atime,
            )


def num_bytes(path: Path) -> int:
    """Bytes that a file, or all files below a folder, take on the disk; links count nothing."""
    if path.is_file() or path.is_symlink():
        return 0 if path.is_symlink() else _taken(path.stat())
    files = (p for p in path.rglob("*") if p.is_file() and not p.is_symlink())
    return sum(map(_taken, states(files).values()))


def _taken(about: os.stat_result) -> int:
    """Bytes of a file, less its holes; Windows does not tell those."""
    blocks = getattr(about, "st_blocks", None)
    # Below a megabyte a file may lie in its directory entry, and take no block of its own.
    if blocks is None or about.st_size < 1 << 20:
        return about.st_size
    return min(about.st_size, 512 * blocks)
