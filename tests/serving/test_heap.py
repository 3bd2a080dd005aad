"""Memory that the gateway has freed goes back to the system."""

from __future__ import annotations

import subprocess
import sys

import pytest

from kanna._util.heap import trimmer

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or trimmer() is None,
    reason="glibc's allocator",
)
HOLED = """
import asyncio, psutil
from kanna.serving import heap

def resident():
    return psutil.Process().memory_info().rss / 1e6

async def main():
    before = resident()
    # Every second block stays: the heap cannot shrink at its end.
    blocks = [b"x" * 40_000 for _ in range(4_000)]
    blocks = blocks[::2]
    holed = resident()
    heap.INTERVAL = 0.05
    task = asyncio.create_task(heap.keep_level())
    await asyncio.sleep(1)
    task.cancel()
    print(before, holed, resident(), len(blocks))

asyncio.run(main())
"""


def test_holes_in_the_heap_are_given_back() -> None:
    run = subprocess.run([sys.executable, "-c", HOLED], capture_output=True, text=True, check=True)
    before, holed, after, _ = map(float, run.stdout.split())
    assert holed - before > 120, "the blocks of this test do not lie in the heap"
    assert after - before < 0.7 * (holed - before)
