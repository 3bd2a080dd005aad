"""What each stage of `kanna optimize` takes, beside what was predicted of it: CPU seconds.

    python -m benchmarks.gguf.stage_forecasts --models stories_wide,dithered --efforts fast,balanced

Every run is a process of its own that begins with nothing: no statistics, no reference in float32,
no rates of the machine. On a machine that does other work, CPU seconds count, and of `--repeats`
runs the medians, of what was predicted as well: rates are measured again by every run. Threads of
torch wait for one another by spinning, which counts as work where others want the cores: one thread
does not. `taken ÷` beyond 0.75 to 1.25 is off.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.common import arguments, models, processes, tables

from kanna.calibration import TOKENS
from kanna.evaluation.windows import DEFAULT_WINDOWS
from kanna.sources.packages import cache_dir

_MADE = ("references", "reference-checks", "machine-rates")
"""Folders of the cache that a run is to make itself."""
_LIMITS = (0.75, 1.25)


def main() -> None:
    parser = arguments.parser(__doc__)
    parser.add_argument("--models", default="stories_wide,dithered")
    parser.add_argument("--efforts", default="fast,balanced")
    parser.add_argument("--bpw", type=float, default=4.6)
    parser.add_argument("--tokens", type=int, default=TOKENS)
    parser.add_argument("--windows", type=int, default=DEFAULT_WINDOWS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=1)
    options = parser.parse_args()
    words = [f"--{name}={getattr(options, name)}" for name in ("bpw", "tokens", "windows")]
    words.append(f"--threads={options.threads}")
    rows: list[dict[str, Any]] = []
    for model in options.models.split(","):
        for effort in options.efforts.split(","):
            asked = [models.as_gguf(model), f"--effort={effort}", *words]
            runs = [_stages(asked, options.threads) for _ in range(options.repeats)]
            of_run = {"model": model, "effort": effort}
            rows += [of_run | row for row in _medians(runs)]
    tables.print_rows(rows, options.json)


def _stages(asked: list[Any], threads: int) -> list[dict[str, Any]]:
    """The stages of one run from nothing, as its result has them."""
    with _fresh_cache() as cache, tempfile.TemporaryDirectory() as home:
        command = processes.kanna("optimize", *asked, "-o", Path(home) / "out", "--json")
        done = subprocess.run(
            ["env", f"KANNA_CACHE={cache}", f"OMP_NUM_THREADS={threads}", *map(str, command)],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    stages = [stage for stage in json.loads(done.stdout)["times"] if stage["cpu_seconds"]]
    for stage in stages:
        figures = (stage["stage"], stage["predicted_cpu_seconds"], stage["cpu_seconds"])
        print(*figures, file=sys.stderr, flush=True)
    return stages


@contextmanager
def _fresh_cache() -> Generator[Path]:
    """A cache folder that has models and texts alone."""
    with tempfile.TemporaryDirectory() as folder:
        for path in cache_dir().iterdir():
            if path.name not in _MADE:
                (Path(folder) / path.name).symlink_to(path)
        yield Path(folder)


def _medians(runs: list[list[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    for stages in zip(*runs, strict=True):
        predicted, taken = (
            median(stage[name] for stage in stages)
            for name in ("predicted_cpu_seconds", "cpu_seconds")
        )
        ratio = taken / predicted if predicted else float("inf")
        yield {
            "stage": stages[0]["stage"],
            "predicted": predicted,
            "taken": taken,
            "taken ÷": ratio,
            "": "" if _LIMITS[0] <= ratio <= _LIMITS[1] else "off",
        }


if __name__ == "__main__":
    main()
