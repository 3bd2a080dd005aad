"""What our side does after calibration, as a command to measure: `values`, `plan` or `tuned`."""

from __future__ import annotations

import sys
from dataclasses import astuple, dataclass
from pathlib import Path

from benchmarks.common import processes, workload
from benchmarks.mlx.our_side import plan_of

import kanna
from kanna import families
from kanna._util.progress import Silent
from kanna.calibration import statistics
from kanna.optimization.adapters.mlx import MLXAdapter
from kanna.optimization.context import Context, Workspace
from kanna.optimization.kl_scorer import HeldOutWindows
from kanna.optimization.measure import measure
from kanna.optimization.search import search
from kanna.optimization.tuning import distillation
from kanna.plan import Plan
from kanna.sources import open_source

KINDS = ("values", "plan", "tuned")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One folder to make.

    Attributes:
        path: The source.
        statistics: Their folder.
        peer: The folder of the peer, whose own widths `values` takes.
        nbytes: Of its weights, which `plan` may take.
        out: Where ours is written.
        threads: For all of it.
        tokens: That statistics were made from.
    """

    path: Path
    statistics: Path
    peer: Path
    nbytes: int
    out: Path
    threads: int
    tokens: int


def command(kind: str, job: Job) -> list[str | Path]:
    """The command line of a job."""
    return processes.python_module("benchmarks.mlx.our_stages", kind, *astuple(job))


def run(kind: str, job: Job) -> None:
    """Make the folder."""
    source = open_source(job.path)
    model = families.load_model(source)
    if kind == "values":
        write(job, plan_of(model, job.peer))
        return
    plan, costs = job.out.with_suffix(".json"), job.out.with_suffix(".costs.json")
    costs.unlink(missing_ok=True)
    workspace = Workspace(
        source=source,
        model=model,
        folder=job.out.parent,
        context=Context(threads=job.threads),
        statistics=job.statistics,
    )
    adapter = MLXAdapter(workspace)
    measured = measure(
        model,
        statistics.read(job.statistics),
        costs,
        threads=job.threads,
        progress=Silent(),
        names=adapter.candidates(),
    )
    search(adapter, adapter.choices(measured), job.nbytes, plan)
    write(job, plan)
    if kind == "tuned":
        out = job.out.with_name("tuned")
        none = HeldOutWindows(trial=[], proof=[], fitted=False)
        subject = adapter.tuning_subject(plan, job.out, out, none)
        (plan.parent / distillation.STATE).unlink(missing_ok=True)
        workload.tune(subject, workspace, plan, job.tokens, more_text=False)


def write(job: Job, plan: Plan | Path) -> None:
    """Convert by a plan."""
    kanna.convert(
        job.path,
        job.out,
        format="mlx",
        plan=plan,
        statistics=job.statistics,
        threads=job.threads,
    )


def main() -> None:
    kind, path, stats, peer, nbytes, out, threads, tokens = sys.argv[1:]
    job = Job(
        path=Path(path),
        statistics=Path(stats),
        peer=Path(peer),
        nbytes=int(nbytes),
        out=Path(out),
        threads=int(threads),
        tokens=int(tokens),
    )
    run(kind, job)


if __name__ == "__main__":
    main()
