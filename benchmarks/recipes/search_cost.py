"""A search of twenty trials beside runs of the same recipe that share nothing.

    python -m benchmarks.recipes.search_cost [--trials 20] [--separate 3]

Each trial is an `optimize` of a random llama of three layers at another size. A separate run is the
same recipe with that size set, in a folder and a process of its own; some of the trials' sizes are
run so, and their median stands for all.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from statistics import median

from benchmarks.common import processes

TESTS = Path(__file__).parents[2] / "tests"
TEXT = Path(__file__).parents[1] / "common" / "text" / "prose.txt"
RECIPE = """
variables: {model: ./model, text: ./text.txt, bpw: 6.0}
steps:
  best:
    verb: optimize
    with:
      source: ${model}
      bpw: ${bpw}
      effort: fast
      calibration: ["${text}"]
      tokens: 2048
      text: ${text}
      windows: 2
      threads: 1
"""
SEARCH = """
search:
  trials: TRIALS
  space: {bpw: {low: 4.5, high: 8.0, step: 0.1}}
  goals: {best.kl_mean: minimize, best.file_bytes: minimize}
"""


def main() -> None:
    """Print seconds of both, and their ratio."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--separate", type=int, default=3)
    given = parser.parse_args()
    sys.path.insert(0, str(TESTS))
    from helpers import tiny_models

    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        tiny_models.make("llama", base / "model")
        shutil.copy(TEXT, base / "text.txt")
        (base / "one.yaml").write_text(RECIPE)
        (base / "search.yaml").write_text(RECIPE + SEARCH.replace("TRIALS", str(given.trials)))

        def run(name: str, out: str, *more: str) -> tuple[float, float]:
            words = ["run", str(base / name), "-o", str(base / out), "--quiet", *more]
            measured = processes.run([sys.executable, "-m", "kanna", *words])
            return measured.seconds, measured.cpu

        together = run("search.yaml", "search")
        trials = json.loads((base / "search" / "manifest.json").read_text())["trials"]
        every = max(1, len(trials) // given.separate)
        apart = [
            run("one.yaml", f"one-{trial['number']}", "--set", f"bpw={trial['values']['bpw']}")
            for trial in trials[::every][: given.separate]
        ]
    print("|  | seconds | CPU seconds |\n|---|---|---|")
    one = [median(values) for values in zip(*apart, strict=True)]
    print(f"| a search of {len(trials)} trials | {together[0]:.1f} | {together[1]:.1f} |")
    print(f"| a separate run, median of {len(apart)} | {one[0]:.1f} | {one[1]:.1f} |")
    for what, all_of_them, single in zip(("seconds", "CPU"), together, one, strict=True):
        print(f"search ÷ separate runs, {what}: {all_of_them / (single * len(trials)):.3f}")


if __name__ == "__main__":
    main()
