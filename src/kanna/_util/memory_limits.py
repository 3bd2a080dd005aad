"""Limits that the kernel holds a process to which runs a stranger's model."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

SLACK = 4 << 30
"""Bytes of address space for stacks and allocators, which is not memory yet."""
_GPU_DEVICES = ("/dev/nvidiactl", "/dev/kfd")
"""Of drivers that reserve address space in the terabytes."""
_OOM_SCORE = 500
"""Of such a process, where others have 0 and what the kernel ends first has 1000."""


def lower_in_oom_order() -> None:
    """Ask Linux to end this process before others when memory is short."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(_OOM_SCORE), encoding="ascii")


def has_gpu() -> bool:
    """Whether the driver of a GPU is here, whose memory would count for `limit_memory`."""
    return any(Path(device).exists() for device in _GPU_DEVICES)


def limit_memory(limit: int) -> None:
    """Have the kernel refuse this process more than so many bytes and `SLACK`, on Linux.

    Mapped files do not count. A limit that is lower already stays.
    """
    if sys.platform != "linux":
        return
    import resource

    limit += SLACK
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if soft == resource.RLIM_INFINITY or limit < soft:
        highest = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (highest, highest))
