"""What of a fine-tune's gain a file keeps: `kanna optimize --adapter` beside llama-quantize.

    python -m benchmarks.adapt.retention --model widened --domain tools
    python -m benchmarks.adapt.retention --model gemma3_dithered --domain wikitext --resume

An adapter is trained by `kanna adapt`, merged, and made into files: ours of `--bpw` bits per
weight, calibrated on the training data; llama-quantize's Q4_K_M with llama-imatrix's matrix of
general text, as people get it who do not think of the domain; and our base by the same plan with
the adapter beside it. All are judged by examples that nothing was fitted to. `--recover` lets ours
tune scales and norms on the training data. Every step is a process of its own, kept in the folder:
`--resume` goes on.

Columns: `loss`, nats per token of held-out answers; `general`, of prose that is none of the domain;
`kept`, (base − file) ÷ (base − tuned), with the 95 % interval; `KL` to the tuned model at the same
tokens; `valid` and `right`, shares of held-out prompts that are answered with a call that the tools
take, and with the call that was asked for.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import tokenizers
from benchmarks.adapt import domains
from benchmarks.common import arguments, evaluation_text, llamacpp, models, processes, tables
from benchmarks.common.result_file import cached

import kanna
from kanna import adapters, families
from kanna._util.progress import Silent
from kanna.calibration import texts
from kanna.calibration.windows import cut
from kanna.evaluation.reference import reference_folder
from kanna.formats import gguf
from kanna.generation import generate
from kanna.sources import open_source, packages
from kanna.training import examples
from kanna.training.tokens import ChatTokenizer
from kanna.verification.retention import BesideBase, RetentionCase, measure

_GENERAL_TOKENS = 12_288
"""Of general text that llama-imatrix reads."""
_MAX_LENGTH = 256
"""Tokens of an example at most."""
_GENERAL = 12
"""Passages of prose that the general loss is of."""
_ANSWER = 64
"""Tokens of an answer at most."""


def main() -> None:
    parser = arguments.parser(__doc__)
    parser.add_argument("--model", choices=models.NAMES, default="widened")
    parser.add_argument("--domain", choices=domains.DOMAINS, default="tools")
    parser.add_argument("--count", type=int, default=320, help="examples to train on")
    parser.add_argument("--judging", type=int, default=64, help="examples to judge by")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--minutes", type=float, default=30.0, help="of training at most")
    parser.add_argument("--bpw", type=float, default=4.5)
    parser.add_argument("--preset", default="Q4_K_M", help="of llama-quantize")
    parser.add_argument("--effort", default="balanced")
    parser.add_argument("--tokens", type=int, default=12_288, help="to calibrate on")
    parser.add_argument("--recover", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--resume", action="store_true", help="take what an earlier run finished")
    options = parser.parse_args()
    tables.print_rows(Comparison(options).rows(), options.json)


class Comparison:
    """One model and one domain."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.threads = options, options.threads
        self.base = models.as_gguf(options.model)
        place = packages.cache_dir() / "benchmarks" / "adapt"
        self.source = self._folder_of(place)
        self.folder = place / f"{options.model}-{options.domain}"
        if not options.resume:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        made = domains.DOMAINS[options.domain](options.count, options.judging)
        self.judging = made[1]
        self.chat = "tokenizer.chat_template" in gguf.read(self.base).metadata
        self.data = domains.write(self.folder / "train.jsonl", made[0], chat=self.chat)
        self.held_out = domains.write(self.folder / "judging.jsonl", made[1], chat=self.chat)
        self.adapter = self.folder / "adapter"
        self.tuned = self.folder / "tuned-f16.gguf"
        self.key = {"version": kanna.__version__} | {
            name: value
            for name, value in vars(options).items()
            if name in ("count", "judging", "rank", "steps", "minutes")
        }

    def _folder_of(self, place: Path) -> Path:
        """The base as a folder, whose names adapters have; that of the cache may be removed."""
        folder = place / f"{self.options.model}-base"
        if not folder.exists():
            partial = place / f".{folder.name}.partial"
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(reference_folder(self.base), partial)
            partial.replace(folder)
        return folder

    def rows(self) -> list[dict[str, Any]]:
        """The table."""
        self._step("adapt", self._train)
        merged = ("merge", self.source, self.adapter, "-o", self.tuned, "--preset", "F16")
        self._step("merge", lambda: self._run(*merged))
        theirs = self.folder / f"peer-{self.options.preset}.gguf"
        self._step(theirs.stem, lambda: self._peer(theirs))
        ours, base = self._optimized(), self.folder / "base.gguf"
        plan, matrix = self.folder / "ours/plan.json", self.folder / "ours/statistics/imatrix.gguf"
        same = ("convert", self.source, "-o", base, "--plan", plan, "--imatrix", matrix)
        self._step("base", lambda: self._run(*same), bpw=self.options.bpw)
        alone = self.folder / "lora.gguf"
        self._step(
            "lora",
            lambda: self._run("convert", self.source, "--adapter", self.adapter, "-o", alone),
        )
        bits = f"{self.options.bpw:g} bits per weight"
        named: list[tuple[str, Path, Path | None]] = [
            ("base, 16 bits", self.base, None),
            ("tuned, 16 bits", self.tuned, None),
            (f"tuned, llama-quantize {self.options.preset}", theirs, None),
            (f"tuned, kanna {bits}", ours, None),
            ("base, kanna by the same plan, and the adapter", base, alone),
        ]
        kept = self._kept([(path, lora) for _, path, lora in named])
        return [
            {"file": name, **self._size(path, lora), **one, **self._calls(name, path, lora)}
            for (name, path, lora), one in zip(named, kept, strict=True)
        ]

    def _step(self, name: str, make: Any, **more: Any) -> Any:
        return cached(self.folder / f"{name}.json", self.key | more, make)

    def _run(self, *words: object) -> dict[str, Any]:
        """One of kanna's commands in a process of its own; what it took."""
        how = ("--threads", self.threads, "--overwrite")
        return asdict(processes.run(processes.kanna(*words, *how)))

    def _train(self) -> dict[str, Any]:
        o = self.options
        how = ("--rank", o.rank, "--steps", o.steps, "--minutes", o.minutes, "--epochs", 100)
        more = ("--max-length", _MAX_LENGTH, "--samples", 0)
        words = ("adapt", self.source, "--data", self.data, "-o", self.adapter)
        taken = self._run(*words, *how, *more, "--device", "cpu")
        report = json.loads((self.adapter / "report.json").read_text())
        shown = ("base_loss", "tuned_loss", "steps", "best_step", "stopped")
        return taken | {name: report[name] for name in shown}

    def _peer(self, out: Path) -> dict[str, Any]:
        """llama-quantize's file, with llama-imatrix's matrix of the tuned model."""
        text, matrix = self.folder / "general.txt", self.folder / "imatrix.gguf"
        model = families.load_model(open_source(self.base))
        windows = cut(texts.documents(None, model)[0], model, tokens=_GENERAL_TOKENS)
        tokenizer = tokenizers.Tokenizer.from_str(
            families.to_hf(model)[2]["tokenizer.json"].decode()
        )
        rows = [list(map(int, row)) for row in windows.ids]
        text.write_text("".join(tokenizer.decode(r, skip_special_tokens=False) for r in rows))
        llamacpp.make_imatrix(self.tuned, text, matrix, ["-c", 512, "-t", self.threads])
        how: dict[str, Any] = {"threads": self.threads, "imatrix": matrix}
        return asdict(processes.run(llamacpp.quantize(self.tuned, out, self.options.preset, **how)))

    def _optimized(self) -> Path:
        """Our file of the tuned model, of a budget, calibrated on the domain."""
        o, out = self.options, self.folder / "ours"
        asked = {n: getattr(o, n) for n in ("bpw", "effort", "tokens", "recover")}

        def make() -> dict[str, Any]:
            words: list[object] = ["optimize", self.source, "-o", out, "--bpw", o.bpw]
            words += ["--effort", o.effort, "--tokens", o.tokens, "--windows", 2]
            words += ["--calibration", self.data, "--threads", self.threads]
            words += ["--adapter", self.adapter, "--data", self.held_out, "--retention", 0]
            words += ["--recover"] if o.recover else []
            taken = asdict(processes.run(processes.kanna(*words)))
            report = json.loads((out / "report.json").read_text())
            pick = report["recommended"]["name"]
            return taken | {"file": next(r["file"] for r in report["rows"] if r["name"] == pick)}

        return out / self._step("ours", make, **asked)["file"]

    def _kept(self, files: Sequence[tuple[Path, Path | None]]) -> list[dict[str, Any]]:
        """Losses on the held-out answers, what is kept of the gain, KL to the tuned model."""
        base = open_source(self.source)
        tuned = adapters.merged_source(base, adapters.open_adapters(self.adapter))
        tokens = ChatTokenizer.of_source(tuned, _MAX_LENGTH)
        case = RetentionCase(
            base=base,
            tuned=tuned,
            artefacts=[
                p if lora is None else BesideBase(base=p, adapter=lora) for p, lora in files
            ],
            examples=tokens.all(examples.read(self.held_out).examples),
            threads=self.threads,
        )
        prose = examples.read(evaluation_text.FOLDER / "prose.txt").examples[:_GENERAL]
        general = measure(replace(case, examples=tokens.all(prose)), 0.0, Silent())
        rows: list[dict[str, Any]] = []
        for one, other in zip(measure(case, 0.0, Silent()), general, strict=True):
            low, high = one.interval or (math.nan, math.nan)
            rows.append(
                {
                    "loss": one.artefact_loss,
                    "general": other.artefact_loss,
                    "kept": one.share,
                    "95 %": f"{low:.3f} to {high:.3f}",
                    "KL": one.kl,
                }
            )
        return rows

    def _size(self, path: Path, lora: Path | None) -> dict[str, float]:
        size = path.stat().st_size + (lora.stat().st_size if lora else 0)
        weights = sum(math.prod(t.shape) for t in open_source(path).tensors.values())
        return {"MB": size / 1e6, "bits": 8 * size / weights}

    def _calls(self, name: str, path: Path, lora: Path | None) -> Mapping[str, float]:
        """Shares of answers that are valid calls, and the right ones."""
        if self.options.domain != "tools":
            return {}
        given = [self._answer(path, one.prompt, lora) for one in self.judging]
        (self.folder / f"{name}.answers.json").write_text(json.dumps(given, indent=1))
        pairs = list(zip(self.judging, given, strict=True))
        return {
            "valid": sum(chat.valid(text) for chat, text in pairs) / len(pairs),
            "right": sum(chat.right(text) for chat, text in pairs) / len(pairs),
        }

    def _answer(self, path: Path, prompt: str, lora: Path | None) -> str:
        how: dict[str, Any] = {"max_tokens": _ANSWER, "chat": self.chat, "context": 512}
        asked = prompt if self.chat else f"{prompt}\n"
        return generate(path, asked, threads=self.threads, adapter=lora, **how).text


if __name__ == "__main__":
    main()
