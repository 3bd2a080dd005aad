"""The closest file at equal bytes: `kanna optimize` beside llama-quantize.

Ours with calibrated statistics, theirs with llama-imatrix's matrix.

    python -m benchmarks.gguf.optimize_quality --model dithered   # or widened, stories, gemma3
    python -m benchmarks.gguf.optimize_quality --model small_moe --classes Q4_K_M,Q3_K_M,Q2_K
    python -m benchmarks.gguf.optimize_quality --model dithered --resume   # after an interruption

Both sides see the same calibration text, token for token. `values`: the peer's own plan, our values
(method gptq). `plan`: our allocation within the peer's bytes, too. Scored on text of five kinds,
none of it calibration text; the mean over the kinds counts (perplexity: the geometric one). `floor`
is what the runtime's quantized activations cost when the weights are perfect, as in
preset_quality.py. `acc` is multiple choice, see multiple_choice.py.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from benchmarks.common import (
    arguments,
    evaluation_text,
    llamacpp,
    models,
    multiple_choice,
    optimize_stages,
    processes,
    tables,
)
from benchmarks.common.processes import Run
from benchmarks.common.result_file import cached

import kanna
from kanna import families
from kanna.calibration import TOKENS, statistics, texts
from kanna.calibration.windows import cut
from kanna.evaluation import Extent, evaluate_many
from kanna.sources import open_source, packages

GOALS = {
    "Q6_K": 0.9,
    "Q5_K_M": 0.8,
    "Q4_K_M": 0.7,
    "IQ4_XS": 0.7,
    "Q4_0": 0.55,
    "Q3_K_M": 0.65,
    "Q2_K": 0.55,
    "IQ2_M": 0.55,
}
"""Size class → the KL divergence to reach ÷ the peer's."""
EXPERT_GOALS = {"Q4_K_M": 0.5, "Q3_K_M": 0.4, "Q2_K": 0.4}
"""The same for a model with experts."""
LESS_FLOOR = ("Q6_K", "Q5_K_M")
"""Size classes whose goal is on the KL divergence less the floor."""
Scores = dict[str, list[tuple[float, float, float]]]
"""Kind of text → of each file: KL divergence, perplexity, and that of the reference."""


def main() -> None:
    parser = arguments.parser(__doc__)
    parser.add_argument("--model", choices=models.NAMES, default="widened")
    parser.add_argument("--classes", default=",".join(GOALS))
    parser.add_argument(
        "--windows", type=int, default=5, help="of 512 tokens, of each kind of text"
    )
    parser.add_argument("--questions", type=int, default=200, help="of multiple choice")
    parser.add_argument("--tokens", type=int, default=TOKENS, help="to calibrate on")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--resume", action="store_true", help="take what an earlier run with these options finished"
    )
    options = parser.parse_args()
    comparison = Comparison(options)
    rows = [comparison.cached(n, comparison.size_class, n) for n in options.classes.split(",")]
    runs = {n: Run(**r) for n, r in comparison.stages.items()}
    runs |= {
        f"{n} {r['size class']}": Run(**r.pop(n))
        for r in rows
        for n in ("allocate", "write", "peer")
    }
    stages, limit = optimize_stages.rows(runs), comparison.runner.memory_limit()
    if options.json:
        print(json.dumps({"rows": rows, "stages": stages, "MB for writing": limit}, indent=2))
        return
    tables.print_rows(rows, False)
    print(f"\nThe standard error of acc 16-bit is {rows[0]['acc ±']:.3f}.\n")
    tables.print_rows(stages, False)
    print(f"\nWriting may take {limit:.0f} MB: 300 and four of the largest second moment.")


class Comparison:
    """One model's files and results; what took long is written to its folder at once."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.threads = options, options.threads
        self.path = models.as_gguf(options.model)
        self.source = open_source(self.path)
        self.model = families.load_model(self.source)
        self.folder = packages.cache_dir() / "benchmarks" / "optimize" / self.path.stem
        self.stats = self.folder / "statistics"
        self.runner = optimize_stages.StageRunner(
            path=self.path, statistics=self.stats, threads=options.threads, tokens=options.tokens
        )
        if not options.resume:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.key = {n: getattr(options, n) for n in ("windows", "questions", "tokens")} | {
            "version": [kanna.__version__, statistics.VERSION]
        }
        names = optimize_stages.WITHOUT_BUDGET
        self.stages = {name: self.cached(name, self._stage, name) for name in names}
        self.matrix = self._imatrix()
        stories = options.model.startswith("stories")
        asked = models.stories_text() if stories else packages.wikitext("valid")
        self.questions = multiple_choice.questions(
            asked.read_text(encoding="utf-8"), options.questions
        )
        self.texts = evaluation_text.files(self.model, self.folder, stories=stories)
        self.floor = self.cached("floor", self._floor)
        self.correct = self.cached("16-bit", self._correct, self.path)

    def cached(self, name: str, make: Callable[..., Any], *more: Any) -> Any:
        """What `make` returned when it was first called with these options."""
        return cached(self.folder / f"{name}.json", self.key, lambda: make(*more))

    def _stage(self, name: str) -> dict[str, Any]:
        if name == "calibrate":  # so that it takes what it takes from nothing
            shutil.rmtree(self.stats, ignore_errors=True)
        return asdict(self.runner.run(name))

    def _correct(self, path: Path) -> list[bool]:
        return multiple_choice.correct_answers(path, self.questions, self.threads)

    def _imatrix(self) -> Path:
        """llama-imatrix's matrix of the same tokens."""
        out = self.stats / "llama-imatrix.gguf"
        if not out.exists():
            documents, _ = texts.documents(None, self.model)
            windows = cut(documents, self.model, tokens=self.runner.tokens)
            tokenizer = tokenizers.Tokenizer.from_str(
                families.to_hf(self.model)[2]["tokenizer.json"].decode()
            )
            rows = [list(map(int, row)) for row in windows.ids[~windows.held]]
            text, partial = self.stats / "read.txt", out.with_suffix(".partial.gguf")
            text.write_text(
                "".join(tokenizer.decode(row, skip_special_tokens=False) for row in rows)
            )
            llamacpp.make_imatrix(self.path, text, partial, ["-c", 512, "-t", 2]).replace(out)
        return out

    def _floor(self) -> dict[str, float]:
        """Q8_0 against its own weights in float32, by kind of text."""
        best, exact = self.folder / "best.gguf", self.folder / "exact.gguf"
        kanna.convert(self.path, best, preset="Q8_0", threads=self.threads, overwrite=True)
        kanna.convert(best, exact, encoding="f32", threads=self.threads, overwrite=True)
        floor = {kind: kl for kind, ((kl, *_),) in self.scores([best], exact).items()}
        best.unlink()
        exact.unlink()
        return floor

    def size_class(self, name: str) -> dict[str, Any]:
        """The row of one size class: three files made, scored, and removed."""
        files = [self.folder / f"{name}-{kind}.gguf" for kind in ("peer", "values", "plan")]
        peer, values, ours = files
        peer_run = processes.run(
            llamacpp.quantize(self.path, peer, name, threads=self.threads, imatrix=self.matrix)
        )
        how: dict[str, Any] = {"statistics": self.stats, "threads": self.threads}
        kanna.convert(self.path, values, preset=name, overwrite=True, **how)
        plan = self.folder / f"{name}.plan.json"
        allocated = self.runner.run("allocate", peer.stat().st_size, plan)
        written = self.runner.write(plan, ours)
        row = {
            "size class": name,
            "MB": ours.stat().st_size / 1e6,
            "MB llama.cpp": peer.stat().st_size / 1e6,
            **self._divergences(name, self.scores(files, self.path)),
            **self._answers(self._correct(peer), self._correct(ours)),
            "allocate": asdict(allocated),
            "write": asdict(written),
            "peer": asdict(peer_run),
        }
        for file in files:
            file.unlink()
        return row

    def _divergences(self, name: str, scores: Scores) -> dict[str, Any]:
        """KL divergences and perplexities of the peer's file, of `values` and of `plan`."""
        kl = np.array([[score[0] for score in of] for of in scores.values()])  # [kinds, files]
        # [files, ours and reference]
        nll = np.log([[score[1:] for score in of] for of in scores.values()]).mean(axis=0)
        goals = EXPERT_GOALS if self.options.model == "small_moe" else GOALS
        means, floor = kl.mean(axis=0), float(np.mean(list(self.floor.values())))
        less: list[float | None] = [None] * 3
        if name in LESS_FLOOR and means[0] > floor:
            less = list((means - floor) / (means[0] - floor))
        return {
            "KL floor": floor,
            "KL llama.cpp": means[0],
            "KL values": means[1],
            "KL plan": means[2],
            "values ÷": means[1] / means[0],
            "plan ÷": means[2] / means[0],
            "values ÷ less floor": less[1],
            "plan ÷ less floor": less[2],
            "goal": goals.get(name),
            "PPL 16-bit": float(np.exp(nll[0, 1])),
            "PPL llama.cpp": float(np.exp(nll[0, 0])),
            "PPL plan": float(np.exp(nll[2, 0])),
            **{f"{kind} ÷": of[2][0] / of[0][0] for kind, of in scores.items()},
        }

    def _answers(self, theirs: list[bool], ours: list[bool]) -> dict[str, Any]:
        """Shares of correct answers of the source and of both files."""
        return {
            "acc 16-bit": float(np.mean(self.correct)),
            "acc ±": multiple_choice.standard_error(self.correct),
            "acc peer": float(np.mean(theirs)),
            "acc ours": float(np.mean(ours)),
            "ours − peer ±": multiple_choice.standard_error(np.subtract(ours, theirs, dtype=float)),
        }

    def scores(self, files: list[Path], reference: Path) -> Scores:
        """Score files on every kind of text."""
        result: Scores = {}
        for kind, text in self.texts.items():
            evaluated = evaluate_many(
                files,
                reference=reference,
                text=text,
                extent=Extent(windows=self.options.windows),
                threads=self.threads,
            )
            result[kind] = [(r.kl_mean, r.perplexity, r.reference_perplexity) for r in evaluated]
        return result


if __name__ == "__main__":
    main()
