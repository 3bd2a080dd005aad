"""The stages of an optimization, each in a process of its own.

    python -m benchmarks.common.optimize_stages STAGE PATH STATISTICS THREADS TOKENS ...

is what such a process runs; `StageRunner` starts it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common import processes
from benchmarks.common.processes import Run

import kanna
from kanna import families
from kanna._util.progress import Silent
from kanna.calibration import TOKENS, gradients, statistics, texts
from kanna.calibration.windows import cut
from kanna.optimization.adapters.gguf import GGUFAdapter
from kanna.optimization.context import Context, Workspace
from kanna.optimization.measure import Measured, measure
from kanna.optimization.probe import probe
from kanna.optimization.search import search
from kanna.sources import open_source


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRunner:
    """One model to optimize.

    Attributes:
        path: Its GGUF.
        statistics: The folder of its statistics, and of what the stages measure.
        threads: For every stage.
        tokens: Of the built-in text to calibrate on.
    """

    path: Path
    statistics: Path
    threads: int
    tokens: int = TOKENS

    def run(self, stage: str, *more: object) -> Run:
        """One stage in a process of its own, whose start is counted."""
        fixed = (self.path, self.statistics, self.threads, self.tokens)
        return processes.run(
            processes.python_module("benchmarks.common.optimize_stages", stage, *fixed, *more)
        )

    def write(self, plan: Path, out: Path) -> Run:
        """Convert by a plan with the statistics."""
        how = ("--plan", plan, "--statistics", self.statistics, "--threads", self.threads)
        return processes.run(processes.kanna("convert", self.path, "-o", out, *how, "--overwrite"))

    def memory_limit(self) -> float:
        """MB that writing may take: 300, and four of the largest second moment in float32."""
        sites = statistics.read(self.statistics).sites.values()
        return 300 + 4 * max(s.columns * s.block * 4 for s in sites) / 1e6


def adapter(runner: StageRunner) -> GGUFAdapter:
    """What the stages know of a GGUF, for the calibrated source."""
    source = open_source(runner.path)
    workspace = Workspace(
        source=source,
        model=families.load_model(source),
        folder=runner.statistics,
        context=Context(threads=runner.threads),
        statistics=runner.statistics,
    )
    return GGUFAdapter(workspace)


def calibrate(runner: StageRunner) -> None:
    """Second moments of the inputs of every matrix."""
    kanna.calibrate(runner.path, runner.statistics, tokens=runner.tokens)


def backward(runner: StageRunner) -> None:
    """Gradients."""
    model = families.load_model(open_source(runner.path))
    windows = cut(texts.documents(None, model)[0], model, tokens=runner.tokens)
    digest = statistics.read(runner.statistics).sha256
    gradients.gradients(model, windows, runner.statistics, digest, device=None, progress=Silent())


def costs(runner: StageRunner) -> Measured:
    """Predicted cost of every encoding on every matrix."""
    return measure(
        families.load_model(open_source(runner.path)),
        statistics.read(runner.statistics),
        runner.statistics / "measure.json",
        threads=runner.threads,
        progress=Silent(),
    )


def probes(runner: StageRunner) -> dict[str, float]:
    """Corrections of the predictions, measured in llama.cpp."""
    measured = costs(runner)
    prober = adapter(runner).prober(measured)
    return probe(prober, measured, runner.statistics / "probe.json", Silent())


def allocate(runner: StageRunner, budget: str, plan: str) -> None:
    """Write the plan of a budget in bytes."""
    gguf = adapter(runner)
    choices = gguf.choices(costs(runner), scale=probes(runner))
    search(gguf, choices, int(budget), Path(plan))


STAGES: dict[str, Callable[..., object]] = {
    "calibrate": calibrate,
    "gradients": backward,
    "measure": costs,
    "probe": probes,
    "allocate": allocate,
}
WITHOUT_BUDGET = ("calibrate", "gradients", "measure", "probe")
"""Stages that need no budget."""


def rows(runs: dict[str, Run]) -> list[dict[str, object]]:
    """What each stage took, as a table."""
    return [
        {
            "stage": name,
            "s": run.seconds,
            "CPU s": run.cpu,
            "peak MB": run.anonymous / 1e6,
            "resident MB": run.resident / 1e6,
        }
        for name, run in runs.items()
    ]


def main() -> None:
    stage, path, folder, threads, tokens, *more = sys.argv[1:]
    runner = StageRunner(
        path=Path(path), statistics=Path(folder), threads=int(threads), tokens=int(tokens)
    )
    STAGES[stage](runner, *more)


if __name__ == "__main__":
    main()
