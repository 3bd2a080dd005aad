"""What `kanna adapt` adds to a step of TRL and PEFT alone, with the same settings: time and memory.

    python -m benchmarks.adapt.step_time

Each side is a process of its own, started in turns; the median over the steps of a process, the
median over its rounds. Looks at the held-out loss, which TRL alone does not take, lie between steps
and are not counted. Memory is the peak of the process that no file backs. `--clock cpu` counts the
seconds of the processor, for a machine that is busy with other work.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from benchmarks.adapt import domains
from benchmarks.common import arguments, models, processes, tables
from benchmarks.gpu.adapt_speed import StepClock, of_trl

import kanna
from kanna.evaluation.reference import reference_folder

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def main() -> None:
    parser = arguments.parser(__doc__)
    parser.add_argument("--model", default="stories_wide")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--home", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        step = SIDES[options.side](options)
        (options.home / f"{options.side}.json").write_text(json.dumps(step))
        return
    with tempfile.TemporaryDirectory() as scratch:
        options.home = Path(scratch)
        chats, _ = domains.DOMAINS["wikitext"](options.batch * (options.steps + 40), 1)
        domains.write(options.home / "data.jsonl", chats)
        found: dict[str, list[tuple[float, float]]] = {side: [] for side in SIDES}
        for _ in range(options.rounds):
            for side, results in found.items():
                results.append(_round(options, side))
        tables.print_rows(_rows(found), options.json)


def _round(options: argparse.Namespace, side: str) -> tuple[float, float]:
    """Median seconds of a step, and MB of the process."""
    names = ("model", "steps", "batch", "threads", "clock", "home")
    words = [f"--{name}={getattr(options, name)}" for name in names]
    run = processes.run(
        processes.python_module("benchmarks.adapt.step_time", f"--side={side}", *words)
    )
    step = json.loads((options.home / f"{side}.json").read_text())
    return float(step), run.anonymous / 1e6


def _rows(found: dict[str, list[tuple[float, float]]]) -> list[dict[str, Any]]:
    middle = {side: np.median(rounds, axis=0) for side, rounds in found.items()}
    ratio = middle["kanna"] / middle["trl"]
    return [
        {"who": "kanna adapt", "s per step": middle["kanna"][0], "peak MB": middle["kanna"][1]},
        {"who": "TRL and PEFT", "s per step": middle["trl"][0], "peak MB": middle["trl"][1]},
        {"who": "ratio", "s per step": ratio[0], "peak MB": ratio[1]},
    ]


def _ours(options: argparse.Namespace) -> float:
    clock = StepClock(CLOCKS[options.clock])
    kanna.adapt(
        models.as_gguf(options.model),
        options.home / "data.jsonl",
        options.home / f"adapter-{time.time_ns()}",
        steps=options.steps,
        batch=options.batch,
        samples=0,
        minutes=600,
        max_length=256,
        device="cpu",
        threads=options.threads,
        progress=clock,
    )
    steps, every = np.diff(clock.ends), max(1, options.steps // 8)
    alone = [float(s) for number, s in enumerate(steps, 1) if number % every]
    return median(alone or steps.tolist())


def _theirs(options: argparse.Namespace) -> float:
    import torch

    torch.set_num_threads(options.threads)
    folder = reference_folder(models.as_gguf(options.model))
    given = (folder, options.home / "adapter", options.home / "data.jsonl", "cpu", options)
    return of_trl(*given, now=CLOCKS[options.clock])


SIDES = {"kanna": _ours, "trl": _theirs}


if __name__ == "__main__":
    sys.exit(main())
