"""What each stage of an optimization takes, from nothing: seconds, CPU seconds and peak memory.

    python -m benchmarks.common.optimize_stages --model dithered --like Q4_K_M

Every stage runs in a process of its own, whose start (0.3 s, with torch 2 s) is counted. Peak
memory is anonymous: pages of mapped files are not counted; `resident` counts them. The last row is
llama-quantize writing that size class.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common import models, peers

import kanna
from kanna import families
from kanna._util.progress import Silent
from kanna.calibration import HELD_TEXT, IMATRIX, TOKENS, gradients, statistics, texts
from kanna.calibration.windows import cut
from kanna.optimization.measure import Measured, measure
from kanna.optimization.probe import probe
from kanna.optimization.search import Wishes, search
from kanna.sources import open_source
from kanna.sources.packages import cache_dir


@dataclass(frozen=True, slots=True)
class Job:
    """path: a GGUF; stats: the folder of its statistics; tokens: to calibrate on."""

    path: Path
    stats: Path
    threads: int
    tokens: int = TOKENS

    def run(self, stage: str, *more: object) -> peers.Run:
        """One stage in a process of its own."""
        fixed = (self.path, self.stats, self.threads, self.tokens)
        return peers.run(
            [
                sys.executable,
                "-m",
                "benchmarks.common.optimize_stages",
                "--child",
                stage,
                *map(str, (*fixed, *more)),
            ]
        )

    def write(self, plan: Path, out: Path) -> peers.Run:
        """Convert by a plan with method gptq."""
        options: list[str | Path] = [
            "--plan",
            plan,
            "--statistics",
            self.stats,
            "--threads",
            str(self.threads),
        ]
        return peers.run(peers.kanna("convert", self.path, "-o", out, *options, "--overwrite"))

    def limit(self) -> float:
        """MB that writing may take.

        300 and four of the largest second moment, in float32 as it is kept.
        """
        return (
            300
            + 4
            * max(s.columns * s.block * 4 for s in statistics.read(self.stats).sites.values())
            / 1e6
        )


def calibrate(job: Job) -> None:
    kanna.calibrate(job.path, job.stats, tokens=job.tokens)


def backward(job: Job) -> None:
    model = families.load_model(open_source(job.path))
    windows = cut(texts.documents(None, model)[0], model, tokens=job.tokens)
    gradients.gradients(
        model, windows, job.stats, statistics.read(job.stats).sha256, device=None, progress=Silent()
    )


def costs(job: Job) -> Measured:
    model, kept = families.load_model(open_source(job.path)), job.stats / "measure.json"
    return measure(model, statistics.read(job.stats), kept, threads=job.threads, progress=Silent())


def probes(job: Job) -> dict[str, float]:
    held, kept = job.stats / HELD_TEXT, job.stats / "probe.json"
    source = open_source(job.path)
    return probe(source, costs(job), job.stats, held, kept, threads=job.threads, progress=Silent())


def allocate(job: Job, budget: str, plan: str) -> None:
    source = open_source(job.path)
    model, found = families.load_model(source), costs(job)
    search(
        source, model, found, job.stats, int(budget), Path(plan), wishes=Wishes(), scale=probes(job)
    )


STAGES: dict[str, Callable[..., object]] = {
    "calibrate": calibrate,
    "gradients": backward,
    "measure": costs,
    "probe": probes,
    "allocate": allocate,
}
MODELS = ("widened", "dithered", "stories", "gemma3", "gemma3_dithered")
BEFORE = ("calibrate", "gradients", "measure", "probe")
"""Stages that need no budget."""


def rows(runs: dict[str, peers.Run]) -> list[dict[str, object]]:
    return [
        {
            "stage": n,
            "s": r.seconds,
            "CPU s": r.cpu,
            "peak MB": r.anonymous / 1e6,
            "resident MB": r.resident / 1e6,
        }
        for n, r in runs.items()
    ]


def source_of(model: str) -> Path:
    """A GGUF of the benchmark model: the peers read nothing else."""
    path: Path = getattr(models, model)()
    if path.is_dir():
        path, folder = cache_dir() / "benchmarks" / f"{path.name}.gguf", path
        if not path.exists():
            kanna.convert(folder, path, encoding="bf16")
    return path


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        stage, path, stats, threads, tokens, *more = sys.argv[2:]
        STAGES[stage](Job(Path(path), Path(stats), int(threads), int(tokens)), *more)
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=MODELS, default="widened")
    parser.add_argument("--like", default="Q4_K_M")
    parser.add_argument("--tokens", type=int, default=TOKENS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    path = source_of(options.model)
    folder = cache_dir() / "benchmarks" / "stages" / path.stem
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    stats, plan, ours, other = (
        folder / name for name in ("statistics", "plan.json", "ours.gguf", "llama.gguf")
    )
    job = Job(path, stats, options.threads, options.tokens)
    runs = {stage: job.run(stage) for stage in BEFORE}
    quantize = peers.quantize(
        path, other, options.like, threads=options.threads, imatrix=stats / IMATRIX
    )
    peer = peers.run(quantize)
    runs |= {
        "allocate": job.run("allocate", other.stat().st_size, plan),
        "write": job.write(plan, ours),
    }
    peers.report(rows(runs | {"llama-quantize": peer}), options.json)
    if not options.json:
        print(f"\nwriting may take {job.limit():.0f} MB: 300 and four of the largest second moment")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
