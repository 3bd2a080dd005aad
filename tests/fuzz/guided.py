"""Fuzz one target by coverage: `PYTHONPATH=src:tests python -m fuzz.guided TARGET --seconds 60`.

atheris, which is no dependency of ours (`pip install atheris`), keeps the inputs that reach new
branches of kanna's modules and changes those further, by the mutations of `fuzz.mutation` and its
own. Faults go where those of `fuzz.run` go.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
from pathlib import Path
from random import Random
from typing import Any

LARGEST = 1 << 20
"""Bytes of an input."""
OWN = 0.2
"""Share of mutations that are libFuzzer's own."""


def main() -> None:
    """Fuzz until the time is over; libFuzzer prints how many inputs ran."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target")
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--corpus", type=Path, help="where inputs of new branches are kept")
    options = parser.parse_args()
    atheris: Any = importlib.import_module("atheris")
    memory = Path("/dev/shm")
    # Not removed at the end: libFuzzer ends the process. A folder of one target is small.
    folder = tempfile.mkdtemp(prefix="fuzz-", dir=memory if memory.is_dir() else None)
    # Files are made inside, so that what is imported on demand is instrumented too.
    with atheris.instrument_imports(include=["kanna"]):
        run, targets = (importlib.import_module(f"fuzz.{name}") for name in ("run", "targets"))
        target = targets.make(Path(folder))[options.target]
        target.run(target.good)
    report = run.keep(run.CORPUS)

    def one(data: bytes) -> None:
        if wrong := run.fault(target, data):
            report(options.target, data, wrong)

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        random = Random(seed)
        if random.random() < OWN:
            return atheris.Mutate(data, len(data))
        return target.mutate(data if len(data) > 1 else target.good, random)[:most]

    kept = options.corpus or Path(folder) / "inputs"
    kept.mkdir(parents=True, exist_ok=True)
    (kept / "good").write_bytes(target.good)
    flags = {
        "max_total_time": options.seconds,
        "seed": options.seed + 1,
        "max_len": LARGEST,
        "rss_limit_mb": 4096,
        "print_final_stats": 1,
    }
    command = [sys.argv[0], *(f"-{name}={value}" for name, value in flags.items()), str(kept)]
    atheris.Setup(command, one, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
