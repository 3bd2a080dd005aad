"""MLX with calibration, at equal bytes and on equal text, beside mlx-lm's learned quantizers.

    python -m benchmarks.mlx.learned_quality --model stories --tokens 8192

They are gptq, awq, dwq and dynamic_quant. Both sides read the same windows of kanna's built-in
calibration text, and are scored as in convert_quality.py. `values`: the peer's own widths and
groups, our values; its time and memory are those of calibrating and writing. `plan`: our allocation
in the peer's bytes; gradients, costs and the search are counted with it. `tuned`: that with its
scales, biases and norms tuned against the original, counted too. Every stage runs in a process of
its own, whose start is counted, and the largest peak of anonymous memory counts.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.common import folder_rows, optimize_stages, processes, tables, workload
from benchmarks.common.processes import Run
from benchmarks.common.workload import CalibrationText, Workload
from benchmarks.mlx import our_stages
from benchmarks.mlx.convert_quality import WEIGHTS, at_equal_bytes
from benchmarks.mlx.our_side import OurMlx

from kanna.errors import KannaError

Arguments = Callable[[CalibrationText, int], list[object]]
"""Arguments of mlx-lm's command, from the text and the size of groups."""


def _gptq(text: CalibrationText, group: int) -> list[object]:
    groups = ["--group-size", group, "--fallback-group-size", group]
    return ["gptq", *groups, "--sequence-length", text.window]


def _awq(text: CalibrationText, group: int) -> list[object]:
    read = ["--sequence-length", text.window, "--num-samples", text.count]
    return ["awq", "--group-size", group, *read]


def _dynamic_quant(_: CalibrationText, group: int) -> list[object]:
    return ["dynamic_quant", "--low-group-size", group, "--high-group-size", group]


def _dwq(rate: str) -> Arguments:
    def arguments(text: CalibrationText, group: int) -> list[object]:
        read = ["--data-path", text.rows.parent, "--num-samples", text.count]
        batches = ["--batch-size", 4, "--max-seq-length", text.window + 1]
        return ["dwq", *read, *batches, "--group-size", group, "--learning-rate", rate]

    return arguments


PEERS: dict[str, Arguments] = {
    "gptq": _gptq,
    "awq": _awq,
    "dynamic_quant": _dynamic_quant,
    "dwq": _dwq("1e-6"),
    "dwq 1e-5": _dwq("1e-5"),
    "dwq 1e-4": _dwq("1e-4"),
}


class TimedOurMlx(OurMlx):
    """Our side, with what its stages take."""

    def __init__(self, work: Workload) -> None:
        super().__init__(work)
        runner = optimize_stages.StageRunner(
            path=work.path,
            statistics=work.stats,
            threads=work.threads,
            tokens=work.options.tokens,
        )
        self.runs = {
            name: work.cached(f"mlx-stages/{name}", self._stage, runner, name)
            for name in ("calibrate", "gradients")
        }

    def _stage(self, runner: optimize_stages.StageRunner, name: str) -> dict[str, Any]:
        if name == "calibrate":
            shutil.rmtree(self.workload.stats, ignore_errors=True)
        return asdict(runner.run(name))

    def timed(self, kind: str, theirs: Path) -> Run:
        """Of `values`, `plan` or `tuned`, from nothing to the folder, as one run."""
        out = self.workload.folder / "timed"
        last = processes.run(
            our_stages.command(
                kind,
                our_stages.Job(
                    path=self.workload.path,
                    statistics=self.workload.stats,
                    peer=theirs,
                    nbytes=folder_rows.nbytes(theirs, WEIGHTS),
                    out=out,
                    threads=self.workload.threads,
                    tokens=self.workload.options.tokens,
                ),
            )
        )
        shutil.rmtree(out)
        shutil.rmtree(out.with_name("tuned"), ignore_errors=True)
        stages = ("calibrate",) if kind == "values" else ("calibrate", "gradients")
        return processes.in_sequence([*(Run(**self.runs[name]) for name in stages), last])


def row(ours: TimedOurMlx, text: CalibrationText, name: str, group: int) -> dict[str, Any]:
    """One of mlx-lm's ways, beside all of ours."""
    options = ours.workload.options
    theirs = ours.workload.folder / "theirs"
    shutil.rmtree(theirs, ignore_errors=True)
    files = ("--model", ours.workload.hf_folder(options.dtype), "--mlx-path", theirs)
    command = processes.python_module("mlx_lm", *PEERS[name](text, group), *files)
    home = str(text.plain.parents[2])
    try:
        run = processes.run(command, HOME=home, HF_HUB_OFFLINE="1", cwd=text.plain.parent)
    except RuntimeError as error:
        return {"mlx_lm": name, "failed": str(error).strip()[-600:]}
    try:
        result = {"mlx_lm": name, **at_equal_bytes(ours, theirs)}
    except KannaError as error:  # float16 is too narrow for the second moments of gptq
        return {"mlx_lm": name, "failed": str(error)}
    kinds = our_stages.KINDS[:-1] if options.no_tuning else our_stages.KINDS
    our_runs = {kind: ours.timed(kind, theirs) for kind in kinds}
    for kind, our_run in our_runs.items():
        result |= {
            f"CPU s ÷, {kind}": our_run.cpu / run.cpu,
            f"memory ÷, {kind}": our_run.anonymous / run.anonymous,
        }
    runs = {"mlx_lm": run, **our_runs}
    result["runs"] = {side: asdict(r) for side, r in runs.items()}
    result |= {f"CPU s {side}": r.cpu for side, r in runs.items()}
    result |= {f"MB memory {side}": r.anonymous / 1e6 for side, r in runs.items()}
    shutil.rmtree(theirs)
    return result


def main() -> None:
    parser = workload.parser(__doc__, windows=3)
    parser.add_argument("--ways", default=",".join(PEERS))
    parser.add_argument(
        "--dtype",
        choices=["f16", "bf16", "f32"],
        default="bf16",
        help="of the folder the peers read",
    )
    parser.set_defaults(more_text=False)
    options = parser.parse_args()
    work = Workload(options, "mlx", "mlx-lm")
    ours, text = TimedOurMlx(work), work.calibration_text()
    group = 32 if options.model == "stories" else 64
    rows = [
        work.cached(
            f"mlx-learned/{name}-{options.dtype}-{options.tokens}", row, ours, text, name, group
        )
        for name in options.ways.split(",")
    ]
    tables.print_successes(rows, "mlx_lm", options.json)


if __name__ == "__main__":
    main()
