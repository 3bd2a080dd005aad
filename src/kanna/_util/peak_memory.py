"""How much memory this process holds of its own."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_STATM = Path("/proc/self/statm")


def anonymous_bytes() -> int:
    """Bytes of memory that belong to this process alone.

    Pages of mapped files are not counted on Linux.
    """
    if sys.platform == "linux":
        _, resident, shared = _STATM.read_bytes().split()[:3]
        return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")
    import psutil

    return psutil.Process().memory_info().rss


class Peak:
    """The largest `anonymous_bytes` seen at the moments it was asked to look."""

    def __init__(self) -> None:
        self.bytes = anonymous_bytes()

    def look(self) -> int:
        self.bytes = max(self.bytes, anonymous_bytes())
        return self.bytes
