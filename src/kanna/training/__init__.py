"""Training: an adapter of a model from a user's own chats or texts, by PEFT and TRL.

kanna writes no trainer: what comes before (data, held-out split, template) and after is here.
"""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from kanna import __version__, families
from kanna._util import extras
from kanna._util.atomic import write_json, write_text
from kanna._util.bars import shown
from kanna._util.progress import Progress
from kanna._util.results import Result
from kanna.errors import FormatError, MissingError, UsageError
from kanna.evaluation.reference import reference_folder
from kanna.formats import folder_files, safetensors
from kanna.formats.stream import replacing
from kanna.hardware.cpu import default_threads
from kanna.sources import Source, open_source
from kanna.training import examples, loop
from kanna.training.checkpoints import Checkpoints
from kanna.training.settings import METHODS, TrainingSettings
from kanna.training.tokens import ChatTokenizer, TokenizedExample

__all__ = ["METHODS", "AdaptResult", "TrainingSettings", "adapt"]

EXTRA = "adapt"
REPORT, HELD_OUT = "report.json", "held-out.jsonl"
"""Beside the adapter: the run, and the examples that it was judged by and did not learn."""
_SHARE = 0.1
_MOST_HELD = 64
_FEW = 20


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class AdaptResult(Result):
    """An adapter that was trained, and how.

    Losses are in nats per learned token of held-out examples.

    Attributes:
        path: The adapter's folder.
        base: The model it was trained on.
        base_loss: Without the adapter.
        tuned_loss: With it.
        steps: Steps that were made.
        best_step: The step whose state was kept.
        stopped: Why it ended: `done`, `early` (no more improvement), `time` or `nan`.
        examples: Numbers of examples: `train`, `held_out`, `duplicates`, `cut`, `unlearned`.
        tokens: Learned tokens of the training examples.
        settings: How it was trained.
        history: Losses by step.
        seconds: Time it took.
        notes: Remarks.
    """

    path: str
    base: str
    base_loss: float
    tuned_loss: float
    steps: int
    best_step: int
    stopped: str
    examples: dict[str, int]
    tokens: int
    settings: dict[str, Any]
    history: list[dict[str, float]]
    seconds: float
    notes: list[str] = field(default_factory=list[str])

    @property
    def ok(self) -> bool:
        """Whether the held-out loss fell."""
        return self.tuned_loss < self.base_loss

    def headline(self) -> str:
        """What it learned."""
        return f"{self.path}: held-out loss {self.base_loss:.4f} → {self.tuned_loss:.4f}"

    def facts(self) -> list[tuple[str, object]]:
        """The figures."""
        counts = self.examples
        return [
            ("Adapter", self.path),
            ("Held-out loss", f"{self.base_loss:.4f} before, {self.tuned_loss:.4f} after"),
            ("Steps", f"{self.steps}, the best after {self.best_step} ({self.stopped})"),
            ("Examples", f"{counts['train']} learned, {counts['held_out']} held out"),
            ("Seconds", f"{self.seconds:.0f}"),
        ]

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON has it."""
        return asdict(self)


def adapt(
    source: str | Path | Source,
    data: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    method: str = "lora",
    rank: int = 16,
    alpha: float | None = None,
    learning_rate: float = 5e-4,
    epochs: float = 3.0,
    steps: int | None = None,
    minutes: float = 8.0,
    batch: int = 4,
    max_length: int = 1024,
    seed: int = 0,
    device: str | None = None,
    threads: int | None = None,
    overwrite: bool = False,
    revision: str | None = None,
    offline: bool = False,
    progress: Progress | None = None,
) -> AdaptResult:
    """Train an adapter of `source` on your own chats or texts, with PEFT and TRL.

    A tenth of the examples is held out first; training stops where their loss falls no more, and
    the best state is what is written, in one step: adapter, report.json and held-out.jsonl. A run
    that was killed goes on from its last checkpoint, and comes to the same weights.

    Args:
        source: The base model.
        data: .jsonl files of chats (`messages`, with `tools`), of `prompt` and `completion` or of
            `text`, text files, or folders of them.
        out: The folder to write.
        method: `lora`, `rslora` or `dora`.
        rank: Rank of the changes.
        alpha: Their strength; None: twice the rank.
        learning_rate: Of AdamW, after a short warm-up.
        epochs: How often all examples are read at most.
        steps: Steps at most; None: by the epochs.
        minutes: Minutes of training at most.
        batch: Examples of one step.
        max_length: Tokens of an example at most; what is longer is cut, and counted.
        seed: Of the split, the order and the first values.
        device: `cpu`, `cuda` or `mps`; None: an accelerator when there is one.
        threads: Threads to use; None: one per physical core.
        overwrite: Replace what is at `out`.
        revision: Branch, tag or commit of a model on the hub.
        offline: Use only what is on this machine.
        progress: Where progress is reported; None: a bar in terminals and notebooks.

    Raises:
        MissingError: The extra `adapt` is not installed.
        UsageError: The data cannot be used; names file and line.
        KannaError: The loss was no number before anything improved.
    """
    begin, progress, out = time.perf_counter(), shown(progress), Path(out)
    if missing := extras.missing(EXTRA):
        raise MissingError(f"training needs {', '.join(missing)}", todo=extras.command(EXTRA))
    settings = TrainingSettings(
        method=method,
        rank=rank,
        alpha=alpha,
        learning_rate=learning_rate,
        epochs=epochs,
        steps=steps,
        minutes=minutes,
        batch=batch,
        seed=seed,
    )
    if max_length < 8:
        raise UsageError(f"--max-length is {max_length}", expected="8 or more")
    read = examples.read(data)
    training, held_out = _split(read.examples, seed)
    safetensors.check_folder(out, overwrite=overwrite, needed=1 << 20)
    opened = open_source(
        source, revision=revision, offline=offline, preflight=_preflight, progress=progress
    )
    _preflight(opened)
    job = _Job(
        source=opened,
        folder=reference_folder(opened, offline=offline, progress=progress),
        read=read,
        training=training,
        held_out=held_out,
        settings=replace(settings, device=_device(device)),
        max_length=max_length,
        threads=threads or default_threads(),
    )
    return job.run(out, begin, progress)


def _preflight(source: Source) -> None:
    """Refuse a model whose adapter no runtime could use."""
    families.require_runtime(source.config)


def _device(given: str | None) -> str:
    import torch

    here = ["cpu"]
    here += ["cuda"] if torch.cuda.is_available() else []
    here += ["mps"] if torch.backends.mps.is_available() else []
    if given is not None and given not in here:
        raise UsageError(f"no device {given!r} here", expected=", ".join(here))
    return given or here[-1]


def _split(
    every: Sequence[examples.Example], seed: int
) -> tuple[list[examples.Example], list[examples.Example]]:
    """Training and held-out examples; the order does not depend on that of the files."""
    if len(every) < 2:
        raise UsageError(
            f"there is {len(every)} example",
            expected="at least 2: one is held out, and judges what is learned",
            todo="some hundred are a good start",
        )
    order = sorted(every, key=lambda example: example.to_json())
    random.Random(seed).shuffle(order)
    held = min(_MOST_HELD, max(1, round(len(order) * _SHARE)))
    return order[held:], order[:held]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """One run, with everything it needs."""

    source: Source
    folder: Path
    read: examples.Examples
    training: list[examples.Example]
    held_out: list[examples.Example]
    settings: TrainingSettings
    max_length: int
    threads: int

    def run(self, out: Path, begin: float, progress: Progress) -> AdaptResult:
        """Train, and write what came of it."""
        import torch

        torch.set_num_threads(self.threads)
        torch.manual_seed(self.settings.seed)
        tokenizer, model = self._load()
        context = int(getattr(model.config, "max_position_embeddings", 0) or self.max_length)
        chats = ChatTokenizer.of(
            tokenizer, folder_files.files(self.folder), min(self.max_length, context)
        )
        training, held_out = chats.all(self.training), chats.all(self.held_out)
        _refuse_nothing(training, held_out, chats)
        checkpoints = Checkpoints(self._unfinished(out))
        with replacing(out) as folder, checkpoints:
            folder.mkdir()
            adapted, run = loop.train(
                model,
                tokenizer,
                training,
                held_out,
                self.settings,
                checkpoints=checkpoints,
                progress=progress,
            )
            result = self._result(out, begin, chats, training, run)
            adapted.peft_config["default"].base_model_name_or_path = self.source.given
            adapted.save_pretrained(str(folder), save_embedding_layers=False)
            (folder / "README.md").unlink(missing_ok=True)  # PEFT's form, with nothing filled in
            write_json(folder / REPORT, result.to_dict() | {"kanna": __version__})
            write_text(folder / HELD_OUT, "".join(f"{e.to_json()}\n" for e in self.held_out))
        checkpoints.remove()  # the adapter is in its place
        return result

    def _unfinished(self, out: Path) -> Path:
        """Where checkpoints lie: a name that another base, data or setting changes."""
        import peft
        import torch
        import transformers
        import trl

        libraries = [one.__version__ for one in (torch, transformers, peft, trl)]
        settings = asdict(self.settings) | {"minutes": None, "max_length": self.max_length}
        data = [[one.to_json() for one in part] for part in (self.training, self.held_out)]
        key = [__version__, libraries, settings, data, self.source.hashes()]
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        return out.absolute().parent / f".{out.name[:60]}.unfinished-{digest[:16]}"

    def _load(self) -> tuple[Any, Any]:
        import torch
        import transformers

        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                str(self.folder), local_files_only=True, trust_remote_code=False
            )
            dtype = torch.bfloat16 if self.settings.device == "cuda" else torch.float32
            model = transformers.AutoModelForCausalLM.from_pretrained(
                str(self.folder), dtype=dtype, local_files_only=True, trust_remote_code=False
            )
        except (
            ImportError,
            ValueError,
            KeyError,
            OSError,
            RuntimeError,
            AssertionError,
        ) as error:
            raise FormatError(f"transformers cannot load {self.folder}: {error}"[:500]) from error
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
        return tokenizer, model

    def _result(
        self,
        out: Path,
        begin: float,
        chats: ChatTokenizer,
        training: Sequence[TokenizedExample],
        run: loop.TrainingRun,
    ) -> AdaptResult:
        return AdaptResult(
            path=str(out),
            base=self.source.given,
            base_loss=run.base_loss,
            tuned_loss=run.best_loss,
            steps=run.steps,
            best_step=run.best_step,
            stopped=run.stopped,
            examples={
                "train": len(training),
                "held_out": len(self.held_out),
                "duplicates": self.read.duplicates,
                "cut": chats.cut,
                "unlearned": chats.unlearned,
            },
            tokens=sum(one.learned for one in training),
            settings=asdict(self.settings) | {"max_length": self.max_length},
            history=run.history,
            seconds=time.perf_counter() - begin,
            notes=self._notes(chats, run),
        )

    def _notes(self, chats: ChatTokenizer, run: loop.TrainingRun) -> list[str]:
        pairs = [
            (self.read.duplicates, "examples were there twice, and are left out once"),
            (chats.cut, f"examples are longer than {chats.most} tokens, and were cut"),
            (chats.unlearned, "examples had no answer left within that length"),
            (
                chats.partial,
                "conversations teach their last answer alone: the template writes "
                "earlier ones otherwise",
            ),
        ]
        notes = [f"{count} {what}" for count, what in pairs if count]
        if run.resumed:
            notes.append(f"went on after step {run.resumed} of a run that had been ended")
        if len(self.read.examples) < _FEW:
            notes.append(
                f"{len(self.read.examples)} examples are few: a held-out loss of so few says little"
            )
        if run.best_step == 0:
            notes.append(
                "nothing that was tried lowers the held-out loss: the adapter changes "
                "nothing. Try more examples, or a lower --learning-rate"
            )
        if run.stopped == "nan":
            notes.append(
                "the loss was no number in the end: the best state before it is kept. "
                "Try a lower --learning-rate"
            )
        return notes


def _refuse_nothing(
    training: Sequence[TokenizedExample],
    held_out: Sequence[TokenizedExample],
    chats: ChatTokenizer,
) -> None:
    if not training or not held_out:
        raise UsageError(
            f"no answer begins within {chats.most} tokens in {chats.unlearned} examples",
            expected="examples that fit",
            todo="raise --max-length, or shorten the prompts",
        )
