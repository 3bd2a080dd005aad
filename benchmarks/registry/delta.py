"""What travels between two models of one source, by how the difference is found.

    python -m benchmarks.registry.delta BASE.gguf TUNED.gguf

Prints a line of JSON: bytes of the tensors that differ, and bytes to send by kanna's pieces, by
pieces that are cut by their content throughout (as casync, zchunk and restic cut), and by `zstd
--patch-from`, which needs both files on one machine and a patch for each pair; with the seconds of
each.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np

from kanna.formats import cutting
from kanna.formats.gguf.read import tensor_places
from kanna.formats.patchwork import KnownPieces, Patchwork


def differing(base: Path, tuned: Path) -> int:
    """Bytes of tensors that are not the same."""
    first, second = np.fromfile(base, np.uint8), np.fromfile(tuned, np.uint8)
    places = zip(tensor_places(base), tensor_places(tuned), strict=True)
    return sum(
        after[1] - after[0]
        for before, after in places
        if not np.array_equal(first[slice(*before)], second[slice(*after)])
    )


def by_pieces(base: Path, tuned: Path) -> int:
    """Bytes that a pull fetches, with the list itself."""
    known = KnownPieces()
    known.add(base, cutting.cut(base))
    wanted = cutting.cut(tuned)
    listed = len(json.dumps(wanted.to_dict(), separators=(",", ":")))
    work, at, fetched = Patchwork(wanted, known), 0, 0
    while at < wanted.num_bytes:
        data = work.here(at)
        end = work.fetched_until(at) if data is None else at + len(data)
        fetched += 0 if data is not None else end - at
        at = end
    return fetched + listed


def by_content(base: Path, tuned: Path) -> int:
    """Bytes of pieces of some 64 KiB that are cut by their content, with the list."""
    seen: set[bytes] = set()
    sizes: list[int] = []
    for path in (base, tuned):
        data, cuts = np.fromfile(path, np.uint8), [0]
        gear = np.frombuffer(hashlib.shake_128(b"gear").digest(1024), "<u4").astype(np.uint32)
        for start in range(0, data.size, 1 << 20):
            block = gear[data[max(0, start - 31) : start + (1 << 20)]]
            hashed = block.copy()
            for age in range(1, 32):
                hashed[age:] += block[:-age] << np.uint32(age)
            for place in np.flatnonzero(hashed >> 16 == 0).tolist():
                at = max(0, start - 31) + place + 1
                if at - cuts[-1] >= 16_384:
                    cuts.append(at)
        hashes = [
            (hashlib.sha256(data[a:b].tobytes()).digest(), b - a)
            for a, b in pairwise([*cuts, data.size])
        ]
        sizes = [size for digest, size in hashes if digest not in seen]
        sizes += [70 * len(hashes)]
        seen = {digest for digest, _ in hashes}
    return sum(sizes)


def by_zstd(base: Path, tuned: Path) -> int:
    """Bytes of a patch by zstd at its level 3, with a window over the whole file."""
    with tempfile.TemporaryDirectory() as folder:
        patch = Path(folder) / "patch"
        words = ["zstd", "-q", "--long=31", f"--patch-from={base}", str(tuned), "-o", str(patch)]
        subprocess.run(words, check=True)
        return patch.stat().st_size


def main() -> None:
    """Measure every way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base", type=Path)
    parser.add_argument("tuned", type=Path)
    options = parser.parse_args()
    row: dict[str, object] = {
        "file": options.tuned.stat().st_size,
        "differing_tensors": differing(options.base, options.tuned),
    }
    ways: dict[str, Callable[[Path, Path], int]] = {
        "pieces": by_pieces,
        "content": by_content,
        "zstd_patch_from": by_zstd,
    }
    for name, way in ways.items():
        begin = time.perf_counter()
        row[name] = way(options.base, options.tuned)
        row[f"{name}_seconds"] = round(time.perf_counter() - begin, 2)
    print(json.dumps(row))


if __name__ == "__main__":
    main()
