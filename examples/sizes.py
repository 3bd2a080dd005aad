"""Print the exact size of every preset as comma-separated values; only headers are read.

    python examples/sizes.py [MODEL] > sizes.csv
"""

from __future__ import annotations

import csv
import sys

import kanna


def main(model: str = "builtin:smollm2-135m") -> None:
    """Write a line per preset."""
    table = csv.writer(sys.stdout)
    table.writerow(["preset", "bytes", "bits per weight", "memory at 4096 tokens"])
    for row in kanna.fit(model, memory="1TB").rows:
        bits = f"{row.bits_per_weight:.3f}"
        table.writerow([row.preset, row.file_bytes, bits, row.memory_bytes])


if __name__ == "__main__":
    main(*sys.argv[1:])
