"""What the backward pass is worth: plans with gradients beside plans by relative errors.

    python -m benchmarks.gguf.gradients_quality --model stories_wide   # or dithered, gemma3

Without gradients an error counts relative to the outputs of its matrix. Both plans of a class have
the bytes of its preset, probes of kinds of matrices in llama.cpp, and values by `gptq`. Scored as
optimize_quality.py does. What is finished is kept in the cache.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import Any

from benchmarks.common import tables, workload
from benchmarks.common.optimize_stages import StageRunner
from benchmarks.common.workload import Workload

import kanna
from kanna.calibration import gradients

CLASSES = "Q4_K_M,Q3_K_M,Q2_K,IQ2_XXS"


def main() -> None:
    parser = workload.parser(__doc__, windows=5)
    parser.add_argument("--classes", default=CLASSES)
    parser.set_defaults(model="stories_wide")
    options = parser.parse_args()
    work = Workload(options)
    runner = work.stages()
    relative = replace(runner, statistics=work.folder / "statistics-relative")
    shutil.copytree(
        runner.statistics,
        relative.statistics,
        ignore=shutil.ignore_patterns(gradients.FILE, "measure.json", "probe.json"),
        dirs_exist_ok=True,
    )
    rows = [_beside(work, name, (runner, relative)) for name in options.classes.split(",")]
    tables.print_rows(rows, options.json)


def _beside(work: Workload, size_class: str, runners: tuple[StageRunner, ...]) -> dict[str, Any]:
    """A plan of each kind."""
    kl = work.cached(f"gradients-{size_class}", _plans_divergences, work, size_class, runners)
    return {
        "size class": size_class,
        "KL relative errors": kl[1],
        "KL gradients": kl[0],
        "÷": kl[0] / kl[1],
    }


def _plans_divergences(
    work: Workload, size_class: str, runners: tuple[StageRunner, ...]
) -> list[float]:
    """Mean KL divergence of each runner's file over the kinds of text."""
    budget = kanna.convert(work.path, preset=size_class, dry_run=True).file_bytes
    files = [work.folder / f"gradients-{number}.gguf" for number in range(len(runners))]
    for runner, out in zip(runners, files, strict=True):
        plan = out.with_suffix(".json")
        runner.run("allocate", budget, plan)
        runner.write(plan, out)
    return work.mean_divergences(files)


if __name__ == "__main__":
    main()
