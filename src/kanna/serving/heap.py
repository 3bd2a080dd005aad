"""What the gateway has freed goes back to the system, so that its memory stays level for weeks."""

from __future__ import annotations

import asyncio
import gc

from kanna._util.heap import trimmer

INTERVAL = 20.0
"""Seconds between two times."""
_THRESHOLDS = (10_000, 10, 10)
"""Of Python's collector, whose last generation a command never needs and a server does."""


def settle() -> None:
    """Leave what was made until now out of collections, and have all later garbage collected."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)


async def keep_level() -> None:
    """Give back pages that glibc keeps between what is still used, now and then.

    Bodies of megabytes come and go beside objects that stay: the heap only grows at its end, and
    never shrinks by itself. Elsewhere the allocator does so.
    """
    trim = trimmer()
    if trim is None:
        return
    while True:
        await asyncio.sleep(INTERVAL)
        await asyncio.to_thread(trim, 0)
