"""One training run from a checked request: model, data in tokens, what is written."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from kanna import __version__
from kanna._util.atomic import write_json, write_text
from kanna._util.progress import Progress
from kanna.errors import FormatError, UsageError
from kanna.formats import folder_files
from kanna.formats.stream import replacing
from kanna.provenance import SOURCE_HASHES
from kanna.report import adapt_page
from kanna.report.write import plain
from kanna.sources import Source
from kanna.tracking import TrackedRun, lineage
from kanna.training import (
    aware,
    examination,
    learned,
    lengths,
    loop,
    memory,
    objectives,
    quantized_base,
    rate_finder,
)
from kanna.training.aware import AwareOutcome, AwarePhase
from kanna.training.checkpoints import Checkpoints
from kanna.training.examples import HELD_OUT, Examples
from kanna.training.planned_values import StoredTypes
from kanna.training.result import AdaptResult
from kanna.training.settings import TrainingSettings
from kanna.training.splitting import Split
from kanna.training.teacher import TeacherModel
from kanna.training.tokens import ChatTokenizer

REPORT, PAGE = "report.json", "report.html"
"""Beside the adapter: the run, and its page."""
HELD_OUT_PAIRS = "held-out-pairs.jsonl"
"""The same with both answers, where pairs were learned."""
_FEW = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterJob:
    """One run, with everything it needs."""

    source: Source
    folder: Path
    read: Examples[Any]
    split: Split[Any]
    settings: TrainingSettings
    max_length: int
    samples: int
    threads: int
    tracked: TrackedRun
    teacher: TeacherModel | None = None
    types: StoredTypes | None = None

    def run(self, out: Path, begin: float, progress: Progress) -> AdaptResult:
        """Train, and write what came of it."""
        import torch

        torch.set_num_threads(self.threads)
        torch.manual_seed(self.settings.seed)
        tokenizer, context = self._tokenizer()
        if self.teacher is not None:
            self.teacher.check(tokenizer, self.source.given)
        chats = ChatTokenizer.of(
            tokenizer, folder_files.files(self.folder), min(self.max_length, context)
        )
        objective = objectives.get(self.settings.objective)
        training, held_out = (
            objective.tokens(chats, part) for part in (self.split.training, self.split.held_out)
        )
        _refuse_nothing(training, held_out, chats)
        lengths.tell(lengths.measure(chats.lengths, chats.most), progress)
        longest = min(chats.most, max(chats.lengths))
        checkpoints = Checkpoints(self._unfinished(out))
        with replacing(out) as folder, checkpoints:
            folder.mkdir()
            if self.teacher is not None:
                training, held_out = self.teacher.teach(
                    (training, held_out), checkpoints.teacher, progress
                )
            model = self._model(progress)
            step, predicted = memory.fitting(model, self.settings, longest, progress)
            task = loop.TrainingTask(
                model=model,
                tokenizer=tokenizer,
                training=training,
                held_out=held_out,
                settings=self.settings,
                step=step,
                checkpoints=checkpoints,
                progress=progress,
                tracked=self.tracked,
            )
            adapted, run = loop.train(task)
            outcome = None
            if self.types is not None:
                adapted, outcome = self._aware(task, adapted, run, self.types)
            changed = self._examine(adapted, chats, objective.wanted(self.split.held_out), run)
            changed["costs"]["predicted_bytes"] = predicted
            changed["aware"] = outcome.to_dict() if outcome else {}
            result = self._result(out, begin, chats, training, run, changed)
            self._write(adapted, folder, result)
        checkpoints.remove()  # the adapter is in its place
        self._track(out, result)
        return result

    def _aware(
        self, task: loop.TrainingTask, adapted: Any, run: loop.TrainingRun, types: StoredTypes
    ) -> tuple[Any, AwareOutcome]:
        """Train on with the values that a plan stores."""
        key = json.dumps([types.name, sorted(types.encodings.items())])
        digest = hashlib.sha256(key.encode()).hexdigest()[:8]
        before = task.checkpoints.folder
        phase = AwarePhase(
            source=self.source,
            types=types,
            save=self._save,
            threads=self.threads,
            progress=task.progress,
        )
        return phase.run(task, adapted, run, before.with_name(f"{before.name}-{digest}"))

    def _save(self, adapted: Any, folder: Path) -> None:
        """Write an adapter as PEFT does."""
        adapted.peft_config["default"].base_model_name_or_path = self.source.given
        adapted.save_pretrained(str(folder), save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)  # PEFT's form, with nothing filled in

    def _write(self, adapted: Any, folder: Path, result: AdaptResult) -> None:
        """Write the adapter and what is known of it."""
        self._save(adapted, folder)
        data = result.to_dict() | {"kanna": __version__}
        write_json(folder / REPORT, data)
        write_text(folder / PAGE, adapt_page(plain(data)))
        wanted = objectives.get(self.settings.objective).wanted(self.split.held_out)
        write_text(folder / HELD_OUT, "".join(f"{e.to_json()}\n" for e in wanted))
        learned.write(folder, self.split.training)
        if self.settings.objective in objectives.PAIRS:
            pairs = "".join(f"{e.to_json()}\n" for e in self.split.held_out)
            write_text(folder / HELD_OUT_PAIRS, pairs)

    def _track(self, out: Path, result: AdaptResult) -> None:
        if not self.tracked.on:
            return
        self.tracked.tags({**lineage.of_artefact(out), SOURCE_HASHES: self.source.hashes()})
        names = ("base_loss", "tuned_loss", "best_step", "tokens", "seconds")
        figures = result.to_dict()
        self.tracked.metrics({name: figures[name] for name in names}, result.steps)
        self.tracked.file(out, "adapter")

    def _unfinished(self, out: Path) -> Path:
        """Where checkpoints lie: a name that another base, data or setting changes."""
        import peft
        import torch
        import transformers
        import trl

        libraries = [one.__version__ for one in (torch, transformers, peft, trl)]
        settings = asdict(self.settings) | {"minutes": None, "max_length": self.max_length}
        data = [
            [one.to_json() for one in part] for part in (self.split.training, self.split.held_out)
        ]
        key = [__version__, libraries, settings, data, self.source.hashes()]
        if self.teacher is not None:
            key.append(self.teacher.source.hashes())
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        return out.absolute().parent / f".{out.name[:60]}.unfinished-{digest[:16]}"

    def _tokenizer(self) -> tuple[Any, int]:
        """The tokenizer of transformers, and the tokens that the model reads at most."""
        import transformers

        where = {"local_files_only": True, "trust_remote_code": False}
        with _loading(self.folder):
            tokenizer = transformers.AutoTokenizer.from_pretrained(str(self.folder), **where)
            config = transformers.AutoConfig.from_pretrained(str(self.folder), **where)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
        return tokenizer, int(getattr(config, "max_position_embeddings", 0) or self.max_length)

    def _model(self, progress: Progress) -> Any:
        with _loading(self.folder):
            return self._base(progress)

    def _base(self, progress: Progress) -> Any:
        """The base, as floats or in few bits."""
        import torch
        import transformers

        if (bits := self.settings.base_bits) is not None:
            return quantized_base.load(self.folder, bits, self.threads, progress)
        dtype = torch.bfloat16 if self.settings.device == "cuda" else torch.float32
        return transformers.AutoModelForCausalLM.from_pretrained(
            str(self.folder), dtype=dtype, local_files_only=True, trust_remote_code=False
        )

    def _examine(
        self, adapted: Any, chats: ChatTokenizer, wanted: list[Any], run: loop.TrainingRun
    ) -> dict[str, Any]:
        """What the adapter changed, and what it cost."""
        peak = memory.peak_bytes(self.settings.device)
        base, tuned = examination.general_losses(adapted, chats.tokenizer)
        samples = examination.sample_answers(adapted, chats, wanted[: self.samples])
        return {
            "base_figures": run.base_figures | {"general_loss": base},
            "tuned_figures": run.best_figures | {"general_loss": tuned},
            "samples": [asdict(one) for one in samples],
            "costs": {
                "predicted_seconds": run.predicted_seconds,
                "training_seconds": run.seconds,
                "looking_seconds": run.looking_seconds,
                "peak_bytes": peak,
            },
        }

    def _result(
        self,
        out: Path,
        begin: float,
        chats: ChatTokenizer,
        training: Sequence[Any],
        run: loop.TrainingRun,
        changed: dict[str, Any],
    ) -> AdaptResult:
        return AdaptResult(
            path=str(out),
            base=self.source.given,
            objective=self.settings.objective,
            base_loss=run.base_loss,
            tuned_loss=run.best_loss,
            steps=run.steps,
            best_step=run.best_step,
            stopped=run.stopped,
            examples={
                "train": len(training),
                "held_out": len(self.split.held_out),
                "duplicates": self.read.duplicates,
                "near_duplicates": self.split.near,
                "cut": chats.cut,
                "unlearned": chats.unlearned,
            },
            lengths=asdict(lengths.measure(chats.lengths, chats.most)),
            tokens=sum(one.learned for one in training),
            settings=self._settings(run),
            rate_test=run.rate_test,
            history=run.history,
            seconds=time.perf_counter() - begin,
            report=str(out / PAGE),
            **changed,
            notes=self._notes(chats, run, changed["aware"]),
        )

    def _settings(self, run: loop.TrainingRun) -> dict[str, Any]:
        """How it was trained, with the learning rate that a test found."""
        given = asdict(self.settings) | {"max_length": self.max_length}
        if run.rate_test:
            given["learning_rate"] = run.rate_test["rate"]
        given |= {"teacher": self.teacher.source.given} if self.teacher else {}
        return given | ({"for_plan": self.types.name} if self.types else {})

    @property
    def _unlearned(self) -> str:
        if self.settings.objective in objectives.PAIRS:
            return "pairs were left out: within that length an answer is empty, or both are equal"
        return "examples had no answer left within that length"

    def _notes(
        self, chats: ChatTokenizer, run: loop.TrainingRun, outcome: dict[str, Any]
    ) -> list[str]:
        pairs = [
            (self.read.duplicates, "examples were there twice, and are left out once"),
            (
                self.split.near,
                "examples are nearly the same as another one: they are kept, and none of them is "
                "held out while the other is learned",
            ),
            (chats.cut, f"examples are longer than {chats.most} tokens, and were cut"),
            (chats.unlearned, self._unlearned),
            (
                chats.partial,
                "conversations teach their last answer alone: the template writes "
                "earlier ones otherwise",
            ),
        ]
        notes = [f"{count} {what}" for count, what in pairs if count]
        if run.resumed:
            notes.append(f"went on after step {run.resumed} of a run that had been ended")
        step = replace(
            memory.MicroBatch.of(self.settings),
            together=run.micro_batch,
            recomputes=run.recomputes,
        )
        if step != memory.MicroBatch.of(self.settings):
            notes.append(f"for want of memory {step.words()}; what a step learns is the same")
        if outcome:
            notes.append(aware.words(outcome))
        if run.rate_test:
            notes.append(rate_finder.words(run.rate_test))
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


@contextmanager
def _loading(folder: Path) -> Generator[None]:
    """Makes errors of transformers ours."""
    try:
        yield
    except (ImportError, ValueError, KeyError, OSError, RuntimeError, AssertionError) as error:
        raise FormatError(f"transformers cannot load {folder}: {error}"[:500]) from error


def _refuse_nothing(
    training: Sequence[Any],
    held_out: Sequence[Any],
    chats: ChatTokenizer,
) -> None:
    if not training or not held_out:
        raise UsageError(
            f"no answer begins within {chats.most} tokens in {chats.unlearned} examples",
            expected="examples that fit",
            todo="raise --max-length, or shorten the prompts",
        )
