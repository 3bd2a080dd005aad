"""Fuzz kanna's readers: `PYTHONPATH=src:tests python -m fuzz.run --seconds 60`.

By our own mutations under a seed; `fuzz.guided` lets atheris choose, by the branches that an input
takes.
"""

from __future__ import annotations

import argparse
import hashlib
import resource
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from random import Random

from fuzz import targets

MOST_SECONDS = 1.0
"""Of computing, for one input."""
CORPUS = Path(__file__).parent / "corpus"


def most_bytes(data: bytes) -> int:
    """What reading an input may add to the memory of the process."""
    return 8 * len(data) + 64_000_000


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def fault(target: targets.Target, data: bytes) -> str:
    """What is wrong with how an input is read; "" when nothing is."""
    began, before = time.process_time(), _peak()
    try:
        target.run(data)
    except Exception:
        return traceback.format_exc(limit=-3)
    seconds, grown = time.process_time() - began, _peak() - before
    if seconds > MOST_SECONDS:
        return f"takes {seconds:.1f} s"
    if grown > most_bytes(data):
        return f"takes {grown / 1e6:.0f} MB"
    return ""


def fuzz(
    made: dict[str, targets.Target],
    seed: int,
    *,
    seconds: float,
    inputs: int,
    report: Callable[[str, bytes, str], None],
) -> dict[str, int]:
    """Inputs that ran, by target; each target gets as much of the time.

    Args:
        made: The targets.
        seed: The same inputs for the same seed.
        seconds: In all.
        inputs: At most so many for each target.
        report: Is told the target, the input and what is wrong with it.
    """
    ran: dict[str, int] = {}
    for name, target in made.items():
        random, end = Random(f"{seed} {name}"), time.monotonic() + seconds / len(made)
        ran[name] = 0
        while ran[name] < inputs and time.monotonic() < end:
            data = target.damage(random)
            ran[name] += 1
            if wrong := fault(target, data):
                report(name, data, wrong)
    return ran


def keep(folder: Path) -> Callable[[str, bytes, str], None]:
    """Keeps one input for each place that fails."""
    seen: set[str] = set()

    def report(name: str, data: bytes, wrong: str) -> None:
        key = f"{name} {wrong.strip().splitlines()[-1][:60]} {wrong.count('line')}"
        if key in seen:
            return
        seen.add(key)
        print(f"\n{name}: {wrong}", file=sys.stderr)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.{hashlib.sha256(data).hexdigest()[:12]}").write_bytes(data)

    return report


def main() -> None:
    """Fuzz, keep what fails, print how many inputs ran."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--inputs", type=int, default=1 << 40, help="at most, for each target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", help="a target")
    parser.add_argument("--keep", type=Path, default=CORPUS, help="where failing inputs go")
    options = parser.parse_args()
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        made = targets.make(Path(folder))
        report = keep(options.keep)
        chosen = {n: t for n, t in made.items() if not options.only or n in options.only}
        ran = fuzz(
            chosen, options.seed, seconds=options.seconds, inputs=options.inputs, report=report
        )
    print(*(f"{count:>9,} {name}" for name, count in ran.items()), sep="\n")
    print(f"{sum(ran.values()):>9,} inputs")


if __name__ == "__main__":
    main()
