"""One model to benchmark ONNX and MLX folders on: its source, statistics and text.

Everything lies in the cache, in a folder per model, and is taken from there in the next run: a row
is made again when its options or the versions of those who made it have changed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from benchmarks.common import arguments, evaluation_text, models
from benchmarks.common.optimize_stages import StageRunner
from benchmarks.common.result_file import cached

import kanna
from kanna import families
from kanna._util.progress import Silent
from kanna.calibration import TOKENS, gradients, statistics, texts
from kanna.calibration.windows import CalibrationWindows, cut
from kanna.evaluation import Extent, evaluate_many
from kanna.optimization.context import Context, Workspace
from kanna.optimization.kl_scorer import held_out
from kanna.optimization.tuning import distillation
from kanna.optimization.tuning.distillation import TuningResult
from kanna.optimization.tuning.subject import TuningSubject
from kanna.sources import open_source, packages

WINDOW = 512
"""Tokens of a window that is scored; a model of a shorter context takes fewer."""


def parser(description: str | None, windows: int = 2) -> argparse.ArgumentParser:
    """The options that all benchmarks of folders have."""
    result = arguments.parser(description)
    result.add_argument("--model", choices=models.NAMES, default="dithered")
    result.add_argument(
        "--windows", type=int, default=windows, help="of 512 tokens, of each kind of text"
    )
    result.add_argument("--tokens", type=int, default=TOKENS, help="to calibrate on")
    result.add_argument("--threads", type=int, default=2)
    result.add_argument(
        "--no-tuning", action="store_true", help="not the plan with its scales tuned"
    )
    result.set_defaults(more_text=True)  # text to tune on than to calibrate on
    result.add_argument(
        "--again", action="store_true", help="measure again what an earlier run has measured"
    )
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationText:
    """The calibration text for the peers to read.

    Attributes:
        plain: A file of all of it.
        rows: JSON lines, `count` windows of `window` tokens in order, then some that are held out.
        count: Windows to read.
        window: Tokens of each.
    """

    plain: Path
    rows: Path
    count: int
    window: int


class Workload:
    """One model and what is known of it.

    Args:
        options: Those of `parser`.
        packages_: The packages whose versions the results depend on.
    """

    def __init__(self, options: argparse.Namespace, *packages_: str) -> None:
        self.options, self.threads = options, int(options.threads)
        self.path = models.as_gguf(options.model)
        self.source = open_source(self.path)
        self.model = families.load_model(self.source)
        self.folder = packages.cache_dir() / "benchmarks" / "folders" / self.path.stem
        self.folder.mkdir(parents=True, exist_ok=True)
        whole = options.tokens == TOKENS
        self.stats = self.folder / ("statistics" if whole else f"statistics-{options.tokens}")
        versions = [f"{package} {version(package)}" for package in packages_]
        self.key: dict[str, Any] = {
            "windows": options.windows,
            "tokens": options.tokens,
            "version": [kanna.__version__, statistics.VERSION, *versions],
        }

    def cached(self, name: str, make: Callable[..., Any], *more: Any) -> Any:
        """What `make` returned when it was first called with these options.

        What failed is tried again.
        """
        path = self.folder / f"{name}.json"
        return cached(path, self.key, lambda: make(*more), again=self.options.again)

    @cached_property
    def tokenizer(self) -> tokenizers.Tokenizer:
        """The model's tokenizer."""
        files = families.to_hf(self.model)[2]
        return tokenizers.Tokenizer.from_str(files["tokenizer.json"].decode())

    @cached_property
    def windows(self) -> CalibrationWindows:
        """The windows of the built-in text that statistics are made from."""
        documents, _ = texts.documents(None, self.model)
        return cut(documents, self.model, tokens=self.options.tokens)

    def statistics(self) -> Path:
        """Second moments and gradients of the built-in calibration text."""
        kanna.calibrate(self.path, self.stats, tokens=self.options.tokens)
        digest = statistics.read(self.stats).sha256
        gradients.gradients(
            self.model, self.windows, self.stats, digest, device=None, progress=Silent()
        )
        return self.stats

    def calibration_text(self) -> CalibrationText:
        """The windows that our statistics are made from, as text."""
        fitted, held = (
            [self.tokenizer.decode(list(map(int, ids)), skip_special_tokens=False) for ids in part]
            for part in (
                self.windows.ids[~self.windows.held],
                self.windows.ids[self.windows.held],
            )
        )
        folder = self.folder / f"text-{self.options.tokens}"
        text = CalibrationText(
            plain=folder / "home" / ".cache" / "mlx-lm" / "calibration_v5.txt",
            rows=folder / "rows" / "train.jsonl",
            count=len(fitted),
            window=int(self.windows.ids.shape[1]),
        )
        text.plain.parent.mkdir(parents=True, exist_ok=True)
        text.plain.write_text("".join(fitted), encoding="utf-8")
        text.rows.parent.mkdir(exist_ok=True)
        rows = [json.dumps({"text": t}) for t in (*fitted, *held)]
        text.rows.write_text("\n".join(rows), encoding="utf-8")
        return text

    def workspace(self) -> Workspace:
        """The calibrated source and this folder, as the adapters of `optimize` take them."""
        return Workspace(
            source=self.source,
            model=self.model,
            folder=self.folder,
            context=Context(threads=self.threads),
            statistics=self.statistics(),
        )

    def tune(self, subject: TuningSubject, plan: Path) -> Path:
        """A folder that `plan` made, with its scales and norms tuned against the original.

        Itself where that does not help.
        """
        tuned = tune(subject, self.workspace(), plan, self.options.tokens, self.options.more_text)
        print(f"{self.options.model}, tuning: {json.dumps(tuned.to_dict())}", flush=True)
        return subject.out if tuned.kept else subject.artefact

    def hf_folder(self, dtype: str = "f16") -> Path:
        """The source as a Hugging Face folder, which is what the peers read."""
        out = self.folder / f"source-{dtype}"
        if not out.exists():
            kanna.convert(self.path, out, format="safetensors", encoding=dtype)
        return out

    def held_out_tokens(self) -> dict[str, list[np.ndarray]]:
        """Token ids of the windows to score on, by kind of text."""
        length = min(WINDOW, int(self.model.meta("{arch}.context_length")))
        count = self.options.windows
        by_kind = evaluation_text.by_kind(
            self.model, stories=self.options.model.startswith("stories")
        )
        result: dict[str, list[np.ndarray]] = {}
        for kind, text in by_kind.items():
            encoded = self.tokenizer.encode(text[: 40_000 * count], add_special_tokens=False)
            ids = np.array(encoded.ids)
            result[kind] = [
                ids[i * length : (i + 1) * length] for i in range(min(count, len(ids) // length))
            ]
        return result

    def divergences(self, files: Sequence[Path]) -> dict[str, list[float]]:
        """Mean KL divergence of each GGUF from the source, by kind of text."""
        stories = self.options.model.startswith("stories")
        return {
            kind: [
                result.kl_mean
                for result in evaluate_many(
                    files,
                    reference=self.path,
                    text=text,
                    extent=Extent(windows=self.options.windows),
                    threads=self.threads,
                )
            ]
            for kind, text in evaluation_text.files(
                self.model, self.folder, stories=stories
            ).items()
        }

    def mean_divergences(self, files: Sequence[Path]) -> list[float]:
        """Of each GGUF, the mean over the kinds of text."""
        kinds = self.divergences(files).values()
        return [sum(of_file) / len(kinds) for of_file in zip(*kinds, strict=True)]

    def stages(self) -> StageRunner:
        """The stages of an optimization of the calibrated source."""
        return StageRunner(
            path=self.path,
            statistics=self.statistics(),
            threads=self.threads,
            tokens=self.options.tokens,
        )


def tune(
    subject: TuningSubject, workspace: Workspace, plan: Path, tokens: int, more_text: bool = True
) -> TuningResult:
    """Tune the scales of an artefact on the built-in text.

    Args:
        subject: The artefact, as its format's adapter gives it.
        workspace: The original.
        plan: What the artefact was made by.
        tokens: Of the text that statistics were made from.
        more_text: Learn from what lies beyond them, too, as `optimize` does.
    """
    text = held_out(workspace.model, None, tokens)
    held = text if more_text else replace(text, rest=[])
    documents, _ = texts.documents(None, workspace.model)
    windows = cut(documents, workspace.model, tokens=tokens)
    tuned = distillation.tune(workspace, subject, plan, windows, held)
    assert tuned is not None
    return tuned
