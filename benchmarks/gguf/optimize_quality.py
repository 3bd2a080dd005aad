"""The closest file at equal bytes.

Kanna with calibrated statistics beside llama-quantize with llama-imatrix's matrix.

    python -m benchmarks.gguf.optimize_quality --model dithered          # or widened, stories, gemma3
    python -m benchmarks.gguf.optimize_quality --model dithered --resume # go on where an interrupted run was

Both sides see the same calibration text, token for token. `values`: the peer's own plan, our values
    (method gptq).
`plan`: our allocation within the peer's bytes, too. Scored on text of five kinds, none of it
    calibration text; the
mean over the kinds counts (perplexity: the geometric one). `floor` is what the runtime's quantized
activations cost when the weights are perfect, as in quality.py. `acc` is multiple choice, see
multiple_choice.py.
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.common import models, multiple_choice, optimize_stages, peers
from benchmarks.common.workload import DOMAINS, TEXT

import kanna
from kanna import families
from kanna.calibration import statistics, texts
from kanna.calibration.windows import cut
from kanna.evaluation import evaluate_many
from kanna.sources import open_source, packages

CLASSES = "Q6_K,Q5_K_M,Q4_K_M,IQ4_XS,Q4_0,Q3_K_M,Q2_K,IQ2_M"
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
LESS_FLOOR = ("Q6_K", "Q5_K_M")
"""Size classes whose goal is on the KL divergence less the floor."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=optimize_stages.MODELS, default="widened")
    parser.add_argument("--classes", default=CLASSES)
    parser.add_argument(
        "--windows", type=int, default=5, help="of 512 tokens, of each kind of text"
    )
    parser.add_argument("--questions", type=int, default=200, help="of multiple choice")
    parser.add_argument(
        "--tokens", type=int, default=optimize_stages.TOKENS, help="to calibrate on"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--resume", action="store_true", help="take what an earlier run with these options finished"
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    work = Work(options)
    rows = [work.kept(name, work.size_class, name) for name in options.classes.split(",")]
    runs = {n: peers.Run(**r) for n, r in work.stages.items()}
    runs |= {
        f"{n} {r['size class']}": peers.Run(**r.pop(n))
        for r in rows
        for n in ("allocate", "write", "peer")
    }
    if options.json:
        print(
            json.dumps(
                {
                    "rows": rows,
                    "stages": optimize_stages.rows(runs),
                    "MB for writing": work.job.limit(),
                },
                indent=2,
            )
        )
        return
    peers.report([{k: "" if v is None else v for k, v in row.items()} for row in rows], False)
    print(f"\nThe standard error of acc 16-bit is {rows[0]['acc ±']:.3f}.\n")
    peers.report(optimize_stages.rows(runs), False)
    print(
        f"\nWriting may take {work.job.limit():.0f} MB: 300 and four of the largest second moment."
    )


class Work:
    """One model's files and results.

    What took long is written to its folder as soon as it is known.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.threads = options, options.threads
        self.path = optimize_stages.source_of(options.model)
        self.source = open_source(self.path)
        self.model = families.load_model(self.source)
        self.folder = packages.cache_dir() / "benchmarks" / "optimize" / self.path.stem
        self.stats = self.folder / "statistics"
        self.job = optimize_stages.Job(self.path, self.stats, options.threads, options.tokens)
        if not options.resume:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.key = {n: getattr(options, n) for n in ("windows", "questions", "tokens")} | {
            "version": [kanna.__version__, statistics.VERSION]
        }
        self.stages = {s: self.kept(s, self._stage, s) for s in optimize_stages.BEFORE}
        self.matrix = self._imatrix()
        read = (
            models.stories_text
            if options.model == "stories"
            else lambda: packages.wikitext("valid")
        )
        self.questions = multiple_choice.questions(
            read().read_text(encoding="utf-8"), options.questions
        )
        self.floor = self.kept("floor", self._floor)
        self.right = self.kept(
            "16-bit", multiple_choice.right, self.path, self.questions, self.threads
        )

    def kept(self, name: str, make: Any, *arguments: Any) -> Any:
        """What `make` gave when it was first called with these options."""
        path = self.folder / f"{name}.json"
        if path.exists() and (before := json.loads(path.read_text()))["key"] == self.key:
            return before["value"]
        value = make(*arguments)
        path.with_suffix(".partial").write_text(json.dumps({"key": self.key, "value": value}))
        path.with_suffix(".partial").replace(path)
        print(f"{self.options.model}: {name}", flush=True)
        return value

    def _stage(self, name: str) -> dict[str, Any]:
        if name == optimize_stages.BEFORE[0]:
            shutil.rmtree(
                self.stats, ignore_errors=True
            )  # what is found there has cost its time before
        return asdict(self.job.run(name))

    def _imatrix(self) -> Path:
        """llama-imatrix's matrix of the same tokens."""
        out = self.stats / "llama-imatrix.gguf"
        if not out.exists():
            import tokenizers

            windows = cut(texts.documents(None, self.model)[0], self.model, tokens=self.job.tokens)
            tokenizer = tokenizers.Tokenizer.from_str(
                families.to_hf(self.model)[2]["tokenizer.json"].decode()
            )
            text, partial = self.stats / "read.txt", out.with_suffix(".partial.gguf")
            rows = windows.ids[~windows.held]
            text.write_text(
                "".join(
                    tokenizer.decode(list(map(int, row)), skip_special_tokens=False) for row in rows
                )
            )
            peers.run(
                [
                    peers.tool("llama-imatrix"),
                    "-m",
                    self.path,
                    "-f",
                    text,
                    "-o",
                    partial,
                    "-c",
                    "512",
                    "-t",
                    "2",
                ]
            )
            partial.replace(out)
        return out

    def _floor(self) -> dict[str, float]:
        """Q8_0 against its own weights in float32, by kind of text."""
        best, exact = self.folder / "best.gguf", self.folder / "exact.gguf"
        kanna.convert(self.path, best, preset="Q8_0", threads=self.threads, overwrite=True)
        kanna.convert(best, exact, encoding="f32", threads=self.threads, overwrite=True)
        found = {domain: kl for domain, ((kl, *_),) in self.scores([best], exact).items()}
        best.unlink()
        exact.unlink()
        return found

    def size_class(self, name: str) -> dict[str, Any]:
        """The row of one size class: three files made, scored, and removed."""
        files = [self.folder / f"{name}-{kind}.gguf" for kind in ("peer", "values", "plan")]
        peer, values, ours = files
        quantized = peers.run(
            peers.quantize(self.path, peer, name, threads=self.threads, imatrix=self.matrix)
        )
        kanna.convert(
            self.path,
            values,
            preset=name,
            statistics=self.stats,
            threads=self.threads,
            overwrite=True,
        )
        plan = self.folder / f"{name}.plan.json"
        allocated = self.job.run("allocate", peer.stat().st_size, plan)
        written = self.job.write(plan, ours)
        scores = self.scores(files, self.path)
        kl = np.array([[one[0] for one in of] for of in scores.values()])  # [kinds, files]
        nll = np.log([[one[1:] for one in of] for of in scores.values()]).mean(
            axis=0
        )  # [files, ours and reference]
        theirs, mine = (
            multiple_choice.right(f, self.questions, self.threads) for f in (peer, ours)
        )
        means, floor = kl.mean(axis=0), float(np.mean(list(self.floor.values())))
        less = (
            (means - floor) / (means[0] - floor)
            if name in LESS_FLOOR and means[0] > floor
            else None
        )
        differences = np.subtract(mine, theirs, dtype=float)
        row = {
            "size class": name,
            "MB": ours.stat().st_size / 1e6,
            "MB llama.cpp": peer.stat().st_size / 1e6,
            "KL floor": floor,
            "KL llama.cpp": means[0],
            "KL values": means[1],
            "KL plan": means[2],
            "values ÷": means[1] / means[0],
            "plan ÷": means[2] / means[0],
            "values ÷ less floor": None if less is None else less[1],
            "plan ÷ less floor": None if less is None else less[2],
            "goal": GOALS.get(name),
            "PPL 16-bit": float(np.exp(nll[0, 1])),
            "PPL llama.cpp": float(np.exp(nll[0, 0])),
            "PPL plan": float(np.exp(nll[2, 0])),
            "acc 16-bit": float(np.mean(self.right)),
            "acc ±": multiple_choice.standard_error(self.right),
            "acc peer": float(np.mean(theirs)),
            "acc ours": float(np.mean(mine)),
            "ours − peer ±": multiple_choice.standard_error(differences),
            **{f"{domain} ÷": of[2][0] / of[0][0] for domain, of in scores.items()},
            "allocate": asdict(allocated),
            "write": asdict(written),
            "peer": asdict(quantized),
        }
        for file in files:
            file.unlink()
        return row

    def scores(
        self, files: list[Path], reference: Path
    ) -> dict[str, list[tuple[float, float, float]]]:
        """By kind of text, of each file: KL divergence, perplexity, and that of the reference."""
        found: dict[str, list[tuple[float, float, float]]] = {}
        for domain in DOMAINS:
            text: Path | None = None
            if domain.endswith(".jsonl"):
                lines = [
                    json.loads(line)["messages"]
                    for line in (TEXT / domain).read_text().splitlines()
                ]
                text = self.folder / "chat.txt"
                text.write_text(
                    "\n\n".join(texts.conversation(messages, self.model) for messages in lines)
                )
            elif domain.endswith(".txt"):
                text = TEXT / domain
            elif self.options.model == "stories":  # WikiText is noise to it
                text = models.stories_text()
            done = evaluate_many(
                files,
                reference=reference,
                text=text,
                windows=self.options.windows,
                threads=self.threads,
            )
            name = (
                "stories" if text and text.name.startswith("stories") else domain.partition(".")[0]
            )
            found[name] = [(r.kl_mean, r.perplexity, r.reference_perplexity) for r in done]
        return found


if __name__ == "__main__":
    main()
