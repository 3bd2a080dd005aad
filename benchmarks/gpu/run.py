"""Everything that needs a CUDA device, one after another: tests, then the two benchmarks.

    python -m benchmarks.gpu.run --out results

Each part is a process with a limit, and what it prints goes to a file in the folder. Exit code 1
where a part failed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

_NAMES = ("mark.gpu", "accelerators.EACH")
"""In the files that have tests for accelerators; others may need what is not installed there."""


def _tests() -> list[str]:
    files = sorted(Path("tests").rglob("test_*.py"))
    return [str(p) for p in files if any(name in p.read_text("utf-8") for name in _NAMES)]


PARTS: dict[str, tuple[list[str], int]] = {
    "tests": (["-m", "pytest", "-m", "gpu", "-q", "--durations=15", *_tests()], 240),
    "large-shapes": (["-m", "benchmarks.gpu.large_shapes", "--device", "cuda"], 240),
    "adapt": (["-m", "benchmarks.gpu.adapt_speed", "--device", "cuda"], 120),
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("parts", nargs="*", default=list(PARTS), help=", ".join(PARTS))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    failed: list[str] = []
    for name in options.parts:
        words, limit = PARTS[name]
        begin = time.perf_counter()
        with (options.out / f"{name}.log").open("w", encoding="utf-8") as log:
            try:
                done = subprocess.run(
                    [sys.executable, *words],
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    timeout=limit,
                    check=False,
                )
                code = done.returncode
            except subprocess.TimeoutExpired:
                code = 124
        print(f"{name}: exit code {code} after {time.perf_counter() - begin:.0f} s", flush=True)
        print((options.out / f"{name}.log").read_text(encoding="utf-8")[-3000:], flush=True)
        failed += [name] if code else []
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
