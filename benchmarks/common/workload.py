"""What the benchmarks of ONNX and MLX folders share.

A source, its statistics, held-out text, and results kept.

Everything lies in the cache, in a folder per model, and is taken from there in the next run: a row
is made again when its options or the versions of those who made it have changed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from benchmarks.common import models, optimize_stages, peers

import kanna
from kanna import families, runtimes
from kanna._util.progress import Silent
from kanna.calibration import TOKENS, gradients, statistics, texts
from kanna.calibration.windows import cut
from kanna.conversion.base import Running
from kanna.evaluation.divergence import compare
from kanna.model import Model
from kanna.optimization.kl_scorer import spare
from kanna.optimization.tuning import distill
from kanna.sources import open_source, packages

MODELS = optimize_stages.MODELS
TEXT = Path(__file__).parent / "text"
DOMAINS = ("wikitext", "prose.txt", "chat.jsonl", "code.txt", "languages.txt")
WINDOW = 512
Logits = dict[str, list[np.ndarray]]


def arguments(description: str | None, windows: int = 2) -> argparse.ArgumentParser:
    """The options that all of them have."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=MODELS, default="dithered")
    parser.add_argument(
        "--windows", type=int, default=windows, help="of 512 tokens, of each kind of text"
    )
    parser.add_argument("--tokens", type=int, default=TOKENS, help="to calibrate on")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--no-tuning", action="store_true", help="not the plan with its scales tuned"
    )
    parser.set_defaults(more=True)  # text to tune on than to calibrate on
    parser.add_argument(
        "--again", action="store_true", help="measure again what an earlier run has measured"
    )
    parser.add_argument("--json", action="store_true")
    return parser


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """The calibration text for others to read.

    Plain: a file; rows: JSON lines, `count` windows of `window` tokens in order, then some that are
    held out.
    """

    plain: Path
    rows: Path
    count: int
    window: int


class Work:
    """One model. peers: the packages whose versions its results depend on."""

    def __init__(self, options: argparse.Namespace, *peers: str) -> None:
        self.options, self.threads = options, int(options.threads)
        self.path = optimize_stages.source_of(options.model)
        self.source = open_source(self.path)
        self.model = families.load_model(self.source)
        self.folder = packages.cache_dir() / "benchmarks" / "folders" / self.path.stem
        self.folder.mkdir(parents=True, exist_ok=True)
        whole = options.tokens == TOKENS
        self.stats = self.folder / ("statistics" if whole else f"statistics-{options.tokens}")
        self.key: dict[str, Any] = {
            "windows": options.windows,
            "tokens": options.tokens,
            "version": [
                kanna.__version__,
                statistics.VERSION,
                *(f"{p} {version(p)}" for p in peers),
            ],
        }

    def kept(self, name: str, make: Callable[..., Any], *more: Any) -> Any:
        """What `make` gave when it was first called with these options.

        What failed is tried again.
        """
        path = self.folder / f"{name}.json"
        if (
            not self.options.again
            and path.exists()
            and (before := json.loads(path.read_text()))["key"] == self.key
        ):
            return before["value"]
        value = make(*more)
        print(f"{self.options.model}, {name}: {json.dumps(value)}", flush=True)
        if "failed" in value:
            return value
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".partial").write_text(json.dumps({"key": self.key, "value": value}))
        path.with_suffix(".partial").replace(path)
        return value

    def statistics(self) -> Path:
        """Second moments and gradients of the built-in calibration text."""
        stats = self.stats
        kanna.calibrate(self.path, stats, tokens=self.options.tokens)
        read = cut(texts.documents(None, self.model)[0], self.model, tokens=self.options.tokens)
        gradients.gradients(
            self.model, read, stats, statistics.read(stats).sha256, device=None, progress=Silent()
        )
        return stats

    def calibration(self) -> Calibration:
        """The windows that our statistics are made from, as text."""
        import tokenizers

        windows = cut(texts.documents(None, self.model)[0], self.model, tokens=self.options.tokens)
        tokenizer = tokenizers.Tokenizer.from_str(
            families.to_hf(self.model)[2]["tokenizer.json"].decode()
        )
        kept, held = (
            [
                tokenizer.decode(list(map(int, ids)), skip_special_tokens=False)
                for ids in windows.ids[which]
            ]
            for which in (~windows.held, windows.held)
        )
        folder = self.folder / f"text-{self.options.tokens}"
        made = Calibration(
            plain=folder / "home" / ".cache" / "mlx-lm" / "calibration_v5.txt",
            rows=folder / "rows" / "train.jsonl",
            count=len(kept),
            window=int(windows.ids.shape[1]),
        )
        made.plain.parent.mkdir(parents=True, exist_ok=True)
        made.plain.write_text("".join(kept), encoding="utf-8")
        made.rows.parent.mkdir(exist_ok=True)
        made.rows.write_text(
            "\n".join(json.dumps({"text": t}) for t in (*kept, *held)), encoding="utf-8"
        )
        return made

    def tune(self, subject: Any, plan: Path) -> Path:
        """A folder that `plan` made, with what may move taught by the original.

        Itself where that does not help.
        """
        found = taught(subject, self.model, plan, self.options.tokens, self.options.more)
        print(f"{self.options.model}, tuning: {json.dumps(found.to_dict())}", flush=True)
        return subject.out if found.kept else subject.artefact

    def hugging(self, dtype: str = "f16") -> Path:
        """The source as a Hugging Face folder, which is what the peers read."""
        out = self.folder / f"source-{dtype}"
        if not out.exists():
            kanna.convert(self.path, out, format="safetensors", encoding=dtype)
        return out

    def text(self) -> dict[str, list[np.ndarray]]:
        """Token ids of held-out windows by kind of text.

        Stories15M knows stories, and WikiText is noise to it.
        """
        import tokenizers

        tokenizer = tokenizers.Tokenizer.from_str(
            families.to_hf(self.model)[2]["tokenizer.json"].decode()
        )
        length, count = (
            min(WINDOW, int(self.model.meta("{arch}.context_length"))),
            self.options.windows,
        )
        found: dict[str, list[np.ndarray]] = {}
        for domain in DOMAINS:
            name = domain.partition(".")[0]
            if domain.endswith(".jsonl"):
                lines = [
                    json.loads(line)["messages"]
                    for line in (TEXT / domain).read_text().splitlines()
                ]
                text = "\n\n".join(texts.conversation(messages, self.model) for messages in lines)
            elif domain != "wikitext":
                text = (TEXT / domain).read_text()
            elif self.options.model == "stories":
                name, text = "stories", models.stories_text().read_text()
            else:
                text = packages.wikitext("test").read_text()
            ids = np.array(tokenizer.encode(text[: 40_000 * count], add_special_tokens=False).ids)
            found[name] = [
                ids[i * length : (i + 1) * length] for i in range(min(count, len(ids) // length))
            ]
        return found


def taught(
    subject: Any, model: Model, plan: Path, tokens: int, more: bool = True
) -> distill.Distilled:
    """Scales of an artefact tuned on the built-in text.

    More: on what lies beyond `tokens`, too, as `optimize` does.
    """
    text = spare(model, None, tokens)
    held = text if more else replace(text, rest=[])
    found = distill.tune(
        subject, model, plan, None, tokens, held, device=None, progress=Silent(), notes=[]
    )
    assert found is not None
    return found


def running(threads: int) -> Running:
    return Running(threads=threads, overwrite=True, nonfinite="refuse", progress=Silent())


def tuned(ours: Any, planned: Path, out: Path, who: str, row: dict[str, Any]) -> None:
    """Add to the row of a peer what the planned folder costs once it is tuned, where that is asked for."""
    if ours.work.options.no_tuning:
        return
    start = time.perf_counter()
    best = ours.judge.kl(ours.tuned(planned, out))
    row |= {
        "KL tuned": mean(best),
        "tuned ÷": mean(best) / row[f"KL {who}"],
        "s tuning": time.perf_counter() - start,
    }
    row["by text"]["tuned"] = best
    shutil.rmtree(out, ignore_errors=True)


def score(exact: Logits, made: Logits, text: dict[str, list[np.ndarray]]) -> dict[str, float]:
    """Mean KL divergence by kind of text, in nats, over the second half of every window."""
    found: dict[str, float] = {}
    for domain, every in text.items():
        scores: list[float] = []
        for ids, wanted, logits in zip(every, exact[domain], made[domain], strict=True):
            _, (one,) = compare(wanted, [logits], ids[len(ids) // 2 + 1 :], threads=2)
            scores.append(float(one.kl.mean()))
        found[domain] = float(np.mean(scores))
    return found


class Values:
    """Judge of the values of a folder.

    Decoded into float32 in llama.cpp, beside the source in float32 there.

    mlx takes hours for this on a Linux CPU; tests/test_mlx_runtime.py holds mlx to those values.
    """

    def __init__(self, work: Work) -> None:
        self.work, self.text = work, work.text()
        self.exact: Logits = {}

    def kl(self, made: Path) -> dict[str, float]:
        self.exact = self.exact or self._logits(self.work.path)
        return score(self.exact, self._logits(made), self.text)

    def _logits(self, path: Path) -> Logits:
        decoded = self.work.folder / "decoded.gguf"
        kanna.convert(path, decoded, encoding="f32", overwrite=True)
        context = max(len(ids) for every in self.text.values() for ids in every)
        try:
            with runtimes.get("llamacpp").open(
                decoded, context=context, threads=self.work.threads
            ) as engine:
                return {
                    domain: [
                        np.array(engine.logits(ids.tolist(), first=len(ids) // 2)[:-1])
                        for ids in every
                    ]
                    for domain, every in self.text.items()
                }
        finally:
            decoded.unlink()


class Graphs:
    """Judge of ONNX folders.

    Stock onnxruntime on the folder as written, beside the float32 graph there.
    """

    def __init__(self, work: Work, exact: Path) -> None:
        self.work, self.graph, self.text = work, exact, work.text()
        self.exact: Logits = {}

    def kl(self, made: Path) -> dict[str, float]:
        self.exact = self.exact or self._logits(self.graph)
        return score(self.exact, self._logits(made), self.text)

    def _logits(self, folder: Path) -> Logits:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = self.work.threads
        session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options)
        decoder = json.loads((folder / "genai_config.json").read_text())["model"]["decoder"]
        empty = np.zeros((1, decoder["num_key_value_heads"], 0, decoder["head_size"]), np.float32)
        past = {i.name: empty for i in session.get_inputs() if i.name.startswith("past")}

        def read(ids: np.ndarray) -> np.ndarray:
            feed = {
                "input_ids": ids[None].astype(np.int64),
                "attention_mask": np.ones((1, len(ids)), np.int64),
            }
            return session.run(["logits"], feed | past)[0][0][len(ids) // 2 : -1].astype(np.float32)

        return {domain: [read(ids) for ids in every] for domain, every in self.text.items()}


def by_turns(runs: Sequence[Callable[[], None]], rounds: int) -> list[float]:
    """Median seconds that each takes, by turns; the first turn warms up."""
    taken: list[list[float]] = [[] for _ in runs]
    for turn in range(rounds + 1):
        for times, run in zip(taken, runs, strict=True):
            start = time.perf_counter()
            run()
            if turn:
                times.append(time.perf_counter() - start)
    return [median(times) for times in taken]


def mean(kl: dict[str, float]) -> float:
    """Over the kinds of text, each counting the same."""
    return float(np.mean(list(kl.values())))


def nbytes(folder: Path, pattern: str) -> int:
    """Bytes of the weights: the tokenizer's files are the same on both sides."""
    return sum(p.stat().st_size for p in folder.glob(pattern))


def ratios(theirs: dict[str, float], ours: dict[str, float]) -> dict[str, float]:
    """Ours over theirs by kind of text."""
    return {f"{domain} ÷": ours[domain] / theirs[domain] for domain in theirs}


def report(found: list[dict[str, Any]], peer: str, as_json: bool) -> None:
    """Say which ways of `peer`, a column, failed and why; print the rows of the others."""
    for one in found:
        if "failed" in one:
            print(f"{one[peer]}: {one['failed']}\n")
    rows = [one for one in found if "failed" not in one]
    peers.report(rows if as_json else table(rows), as_json)


def table(rows: Sequence[dict[str, Any]]) -> list[dict[str, object]]:
    """Rows without what only the JSON tells."""
    return [
        {k: "" if v is None else v for k, v in row.items() if not isinstance(v, dict)}
        for row in rows
    ]
