"""What each step adds, for one size class: values first, then the plan, then what is measured.

    python -m benchmarks.gguf.optimize_ablation --model dithered --classes Q3_K_M,Q4_0

All files of a class take at most the bytes of kanna's own plain preset. Each step starts from the
one before it: scales by search, with the importance of columns guessed; weighted by the diagonal of
the inputs' second moment; error feedback under all of it, once; feedback and coordinate descent
over codes and scales, twice; our allocation; swaps of encodings; tuned scales and norms. Seconds
are CPU time of this process. Scored as optimize_quality.py does: mean KL divergence over five kinds
of text, none of it calibration text. What is finished is kept in the cache.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.common import arguments, evaluation_text, models, tables

import kanna
from kanna import convert, families
from kanna._util.progress import Silent
from kanna.calibration import IMATRIX, gradients, statistics, texts
from kanna.calibration.windows import cut
from kanna.evaluation import Extent, evaluate_many
from kanna.methods import gptq
from kanna.optimization.adapters.gguf import GGUFAdapter
from kanna.optimization.context import Context, Workspace
from kanna.optimization.kl_scorer import held_out
from kanna.optimization.local_search import LocalSearch
from kanna.optimization.measure import measure
from kanna.optimization.probe import probe
from kanna.optimization.search import plan_of, search
from kanna.optimization.tuning import distillation
from kanna.sources import open_source, packages

STEPS = ("search", "+ weights", "+ feedback", "+ refit", "+ allocation", "+ swaps", "+ tuning")
TOKENS = 24_576


def main() -> None:
    parser = arguments.parser(__doc__)
    parser.add_argument("--model", choices=["widened", "dithered", "stories"], default="stories")
    parser.add_argument("--classes", default="Q3_K_M,Q4_0")
    parser.add_argument(
        "--windows", type=int, default=4, help="of 512 tokens, of each kind of text"
    )
    parser.add_argument("--tries", type=int, default=24, help="swaps at most")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    ablation = Ablation(options)
    rows: list[dict[str, Any]] = []
    for name in options.classes.split(","):
        rows += ablation.size_class(name)
    tables.print_rows(rows, options.json)


class Ablation:
    """One model: what all size classes share, and the steps of each."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.threads = options, options.threads
        self.path = getattr(models, options.model)()
        self.source = open_source(self.path)
        self.model = families.load_model(self.source)
        self.folder = packages.cache_dir() / "benchmarks" / "ablation" / self.path.stem
        self.folder.mkdir(parents=True, exist_ok=True)
        self.stats = self.folder / "statistics"
        kanna.calibrate(self.path, self.stats, tokens=TOKENS)
        self.windows = cut(texts.documents(None, self.model)[0], self.model, tokens=TOKENS)
        self.text = held_out(self.model, None, TOKENS)
        gradients.gradients(
            self.model,
            self.windows,
            self.stats,
            statistics.read(self.stats).sha256,
            device=None,
            progress=Silent(),
        )
        self.texts = evaluation_text.files(self.model, self.folder, stories=False)

    def size_class(self, name: str) -> list[dict[str, Any]]:
        """The rows of one size class, a step each."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        budget = kanna.convert(self.path, preset=name, dry_run=True).file_bytes
        makers: list[Callable[[Path], dict[str, Any] | None]] = [
            lambda out: self._convert(out, preset=name),
            lambda out: self._convert(out, preset=name, imatrix=self.stats / IMATRIX),
            lambda out: self._feedback_alone(out, name),
            lambda out: self._convert(out, preset=name, statistics=self.stats),
            lambda out: self._allocate(out, folder, budget),
            lambda out: self._swap(out, folder, budget),
            lambda out: self._tune(out, folder),
        ]
        rows: list[dict[str, Any]] = []
        for number, (step, make) in enumerate(zip(STEPS, makers, strict=True)):
            result = self._step(folder / f"{number}.gguf", make)
            mean = sum(result["kl"].values()) / len(result["kl"])
            print(name, step, f"{mean:.5f}", f"{result['seconds']:.0f} s", flush=True)
            rows.append(
                {
                    "size class": name,
                    "step": step,
                    "MB": result["bytes"] / 1e6,
                    "KL": mean,
                    "÷ step before": mean / rows[-1]["KL"] if rows else "",
                    "÷ search": mean / rows[0]["KL"] if rows else "",
                    "CPU s": round(result["seconds"]),
                    "note": result.get("note", ""),
                }
            )
        assert all(
            row["MB"] <= budget / 1e6
            for row in rows
            if row["step"].startswith(("+ alloc", "+ swap", "+ tun"))
        )
        return rows

    def _step(self, path: Path, make: Callable[[Path], dict[str, Any] | None]) -> dict[str, Any]:
        """Seconds, bytes and scores of one step's file, of this run or an earlier one."""
        result = path.with_suffix(".json")
        if not (result.exists() and path.exists()):
            clock = time.process_time()
            more = make(path) or {}
            seconds = time.process_time() - clock
            measured = {"seconds": seconds, "bytes": path.stat().st_size, "kl": self._scores(path)}
            result.write_text(json.dumps(measured | more))
        return json.loads(result.read_text())

    def _convert(self, out: Path, **how: Any) -> None:
        convert(self.source, out, threads=self.threads, overwrite=True, **how)

    def _feedback_alone(self, out: Path, preset: str) -> None:
        passes, rounds = gptq.PASSES, gptq.ROUNDS
        gptq.PASSES, gptq.ROUNDS = 1, 0
        try:
            self._convert(out, preset=preset, statistics=self.stats)
        finally:
            gptq.PASSES, gptq.ROUNDS = passes, rounds

    def _adapter(self, folder: Path) -> GGUFAdapter:
        workspace = Workspace(
            source=self.source,
            model=self.model,
            folder=folder,
            context=Context(threads=self.threads, device="cpu"),
            statistics=self.stats,
        )
        return GGUFAdapter(workspace)

    def _choices(self) -> Any:
        costs = measure(
            self.model,
            statistics.read(self.stats),
            self.folder / "measure.json",
            threads=self.threads,
            progress=Silent(),
        )
        adapter = self._adapter(self.folder)
        scale = probe(adapter.prober(costs), costs, self.folder / "probe.json", Silent())
        return adapter.choices(costs, scale=scale)

    def _allocate(self, out: Path, folder: Path, budget: int) -> None:
        adapter = self._adapter(folder)
        search(adapter, self._choices(), budget - adapter.tuning_bytes, folder / "plan.json")
        self._convert(out, plan=folder / "plan.json", statistics=self.stats)

    def _swap(self, out: Path, folder: Path, budget: int) -> dict[str, Any]:
        adapter, choices, plan = self._adapter(folder), self._choices(), folder / "plan.json"
        nbytes = budget - adapter.tuning_bytes
        planned = search(adapter, choices, nbytes, plan)
        trials = LocalSearch(adapter, choices, planned, nbytes, self.text)
        plan_of(choices, trials.encodings).save(plan)
        if trials.encodings == planned.encodings:
            shutil.copy(folder / f"{STEPS.index('+ allocation')}.gguf", out)
        elif not out.exists():
            self._convert(out, plan=plan, statistics=self.stats)
        trials.run(out, plan, self.options.tries)
        return {"note": f"{trials.kept} of {len(trials.state.tries)} kept"}

    def _tune(self, out: Path, folder: Path) -> dict[str, Any]:
        before = folder / f"{STEPS.index('+ swaps')}.gguf"
        adapter, plan = self._adapter(folder), folder / "plan.json"
        subject = adapter.tuning_subject(plan, before, out, self.text)
        tuned = distillation.tune(adapter.workspace, subject, plan, self.windows, self.text)
        if tuned is None or not tuned.kept:
            shutil.copy(before, out)
            return {"note": "not kept"}
        return {"note": f"{tuned.parameters:,} numbers"}

    def _scores(self, file: Path) -> dict[str, float]:
        """KL divergence on every kind of text."""
        result: dict[str, float] = {}
        for kind, text in self.texts.items():
            [evaluated] = evaluate_many(
                [file],
                reference=self.path,
                text=text,
                extent=Extent(windows=self.options.windows),
                threads=self.threads,
            )
            result[kind] = evaluated.kl_mean
        return result


if __name__ == "__main__":
    main()
