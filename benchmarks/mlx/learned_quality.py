"""MLX with calibration, at equal bytes and on equal text.

Kanna beside mlx-lm's gptq, awq, dwq and dynamic_quant.

    python -m benchmarks.mlx.learned_quality --model stories --tokens 8192

Both sides read the same windows of kanna's built-in calibration text, and are judged as in
convert_quality.py. `values`: the peer's own widths and groups, our values; its time and memory are
those of calibrating and writing. `plan`: our allocation in the peer's bytes; gradients, costs and
the search are counted with it. `tuned`: that with its scales, biases and norms taught by the
original, counted too. Every stage runs in a process of its own, whose start is counted, and the
largest peak of anonymous memory counts.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.common import optimize_stages, peers, workload
from benchmarks.mlx import convert_quality

import kanna
from kanna import families
from kanna._util.progress import Silent
from kanna.calibration import statistics
from kanna.errors import KannaError
from kanna.optimization import mlx
from kanna.optimization.measure import measure
from kanna.optimization.tuning import distill
from kanna.sources import open_source

Command = Callable[[workload.Calibration, int], list[str]]


def _dwq(rate: str) -> Command:
    def command(text: workload.Calibration, group: int) -> list[str]:
        fixed = [
            "--data-path",
            str(text.rows.parent),
            "--batch-size",
            "4",
            "--max-seq-length",
            str(text.window + 1),
        ]
        return [
            "dwq",
            *fixed,
            "--num-samples",
            str(text.count),
            "--group-size",
            str(group),
            "--learning-rate",
            rate,
        ]

    return command


PEERS: dict[str, Command] = {
    "gptq": lambda text, group: [
        "gptq",
        "--group-size",
        str(group),
        "--fallback-group-size",
        str(group),
        "--sequence-length",
        str(text.window),
    ],
    "awq": lambda text, group: [
        "awq",
        "--group-size",
        str(group),
        "--sequence-length",
        str(text.window),
        "--num-samples",
        str(text.count),
    ],
    "dynamic_quant": lambda _, group: [
        "dynamic_quant",
        "--low-group-size",
        str(group),
        "--high-group-size",
        str(group),
    ],
    "dwq": _dwq("1e-6"),
    "dwq 1e-5": _dwq("1e-5"),
    "dwq 1e-4": _dwq("1e-4"),
}


KINDS = ("values", "plan", "tuned")


class Ours(convert_quality.Ours):
    """Our side, with what its stages take."""

    def __init__(self, work: workload.Work) -> None:
        super().__init__(work)
        self.stats = work.stats
        job = optimize_stages.Job(work.path, self.stats, work.threads, work.options.tokens)
        self.runs = {
            name: work.kept(f"mlx-stages/{name}", self._stage, job, name)
            for name in optimize_stages.BEFORE[:2]
        }

    def _stage(self, job: optimize_stages.Job, name: str) -> dict[str, Any]:
        if name == optimize_stages.BEFORE[0]:
            shutil.rmtree(self.stats, ignore_errors=True)
        return asdict(job.run(name))

    def timed(self, kind: str, theirs: Path) -> peers.Run:
        """Of `values`, `plan` or `tuned`, from nothing to the folder, as one run."""
        size, out = workload.nbytes(theirs, "*.safetensors"), self.work.folder / "timed"
        child = [
            sys.executable,
            "-m",
            "benchmarks.mlx.learned_quality",
            "--child",
            kind,
            self.work.path,
            self.stats,
            theirs,
            str(size),
            out,
        ]
        last = peers.run([*child, str(self.work.threads), str(self.work.options.tokens)])
        shutil.rmtree(out)
        shutil.rmtree(out.with_name("tuned"), ignore_errors=True)
        before = [
            peers.Run(**self.runs[n])
            for n in optimize_stages.BEFORE[: 1 if kind == "values" else 2]
        ]
        runs = [*before, last]
        return peers.Run(
            sum(r.seconds for r in runs),
            sum(r.cpu for r in runs),
            max(r.anonymous for r in runs),
            max(r.resident for r in runs),
        )


def child(
    kind: str,
    path: Path,
    stats: Path,
    theirs: Path,
    size: int,
    out: Path,
    threads: int,
    tokens: int,
) -> None:
    """What `values`, `plan` or `tuned` does after calibration."""
    source = open_source(path)
    model = families.load_model(source)
    if kind == "values":
        found = convert_quality.like(model, theirs)
        kanna.convert(path, out, format="mlx", plan=found, statistics=stats, threads=threads)
        return
    plan, costs = out.with_suffix(".json"), out.with_suffix(".costs.json")
    costs.unlink(missing_ok=True)
    measured = measure(
        model,
        statistics.read(stats),
        costs,
        threads=threads,
        progress=Silent(),
        kinds=mlx.candidates(mlx.scales_of(model)),
    )
    bench = mlx.Bench(source=source, model=model, statistics=stats)
    mlx.search(bench, measured.choices(model), size, plan)
    kanna.convert(path, out, format="mlx", plan=plan, statistics=stats, threads=threads)
    if kind == "tuned":
        subject = mlx.subject(bench, out, out.with_name("tuned"), workload.running(threads))
        (plan.parent / distill.STATE).unlink(missing_ok=True)
        workload.taught(subject, model, plan, tokens, more=False)


def row(
    ours: Ours, text: workload.Calibration, name: str, dtype: str, group: int
) -> dict[str, Any]:
    """One of mlx-lm's ways, beside both of ours."""
    theirs = ours.work.folder / "theirs"
    shutil.rmtree(theirs, ignore_errors=True)
    command = [sys.executable, "-m", "mlx_lm", *PEERS[name](text, group)]
    model: list[str | Path] = ["--model", ours.work.hugging(dtype), "--mlx-path", theirs]
    try:
        run = peers.run(
            [*command, *model],
            HOME=str(text.plain.parents[2]),
            HF_HUB_OFFLINE="1",
            cwd=text.plain.parent,
        )
    except RuntimeError as error:
        return {"mlx_lm": name, "failed": str(error).strip()[-600:]}
    try:
        found = {"mlx_lm": name, **convert_quality.beside(ours, theirs)}
    except KannaError as error:  # float16 is too narrow for the second moments of gptq
        return {"mlx_lm": name, "failed": str(error)}
    runs = {kind: ours.timed(kind, theirs) for kind in KINDS[: 3 - ours.work.options.no_tuning]}
    for kind, one in runs.items():
        found |= {
            f"CPU s ÷, {kind}": one.cpu / run.cpu,
            f"memory ÷, {kind}": one.anonymous / run.anonymous,
        }
    runs = {"mlx_lm": run, **runs}
    found |= {"runs": {who: asdict(one) for who, one in runs.items()}}
    found |= {f"CPU s {who}": one.cpu for who, one in runs.items()}
    found |= {f"MB memory {who}": one.anonymous / 1e6 for who, one in runs.items()}
    shutil.rmtree(theirs)
    return found


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        kind, path, stats, theirs, size, out, threads, tokens = sys.argv[2:]
        child(
            kind,
            Path(path),
            Path(stats),
            Path(theirs),
            int(size),
            Path(out),
            int(threads),
            int(tokens),
        )
        return
    parser = workload.arguments(__doc__, windows=3)
    parser.add_argument("--ways", default=",".join(PEERS))
    parser.add_argument(
        "--dtype",
        choices=["f16", "bf16", "f32"],
        default="bf16",
        help="of the folder the peers read",
    )
    parser.set_defaults(more=False)
    options = parser.parse_args()
    work = workload.Work(options, "mlx", "mlx-lm")
    ours, text = Ours(work), work.calibration()
    group = 32 if options.model == "stories" else 64
    names = options.ways.split(",")
    keys = [f"mlx-learned/{n}-{options.dtype}-{options.tokens}" for n in names]
    found = [
        work.kept(key, row, ours, text, n, options.dtype, group)
        for key, n in zip(keys, names, strict=True)
    ]
    workload.report(found, "mlx_lm", options.json)


if __name__ == "__main__":
    main()
