"""Time of `kanna fit` on local sources, whole command, median.

python -m benchmarks.gguf.fit_time
"""

from __future__ import annotations

import argparse
from statistics import median

from benchmarks.common import models, peers

from kanna.sources import packages

SOURCES = {
    "GGUF, vocabulary 49k": models.dithered,
    "folder, vocabulary 128k, 8B": models.hollow,
    "folder, vocabulary 262k": models.gemma3,
    "GGUF, vocabulary 262k": packages.gemma3_270m_gguf,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows: list[dict[str, object]] = []
    for what, make in SOURCES.items():
        command = peers.kanna("fit", make(), "--memory", "8GB")
        peers.run(command)
        runs = [peers.run(command) for _ in range(options.repeats)]
        rows.append(
            {
                "source": what,
                "s": median(r.seconds for r in runs),
                "CPU s": median(r.cpu for r in runs),
            }
        )
    peers.report(rows, options.json)


if __name__ == "__main__":
    main()
