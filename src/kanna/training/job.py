"""One training run from a checked request: model, data in tokens, what is written."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from kanna import __version__
from kanna._util.atomic import write_json, write_text
from kanna._util.progress import Progress
from kanna.calibration import devices
from kanna.errors import UsageError
from kanna.formats import folder_files
from kanna.formats.stream import replacing
from kanna.provenance import SOURCE_HASHES
from kanna.report import adapt_page
from kanna.report.write import plain
from kanna.sources import Source
from kanna.tracking import TrackedRun, lineage
from kanna.training import (
    aware,
    causal_model,
    drafts,
    examination,
    learned,
    lengths,
    loop,
    memory,
    mlx_training,
    notes,
    objectives,
    quantized_base,
)
from kanna.training.aware import AwareOutcome, AwarePhase
from kanna.training.checkpoints import Checkpoints
from kanna.training.drafts.phase import DraftPhase
from kanna.training.examples import HELD_OUT, Examples
from kanna.training.gate_file import GateFile
from kanna.training.held_answers import calling_prompts
from kanna.training.planned_values import StoredTypes
from kanna.training.result import AdaptResult, gate_notes
from kanna.training.settings import MLX, TORCH, TrainingSettings
from kanna.training.splitting import Split
from kanna.training.teacher import TeacherModel
from kanna.training.tokens import ChatTokenizer

REPORT, PAGE = "report.json", "report.html"
"""Beside the adapter: the run, and its page."""
HELD_OUT_PAIRS = "held-out-pairs.jsonl"
"""The same with both answers, where pairs were learned."""
_LIBRARIES = {
    TORCH: ("torch", "transformers", "peft", "trl"),
    MLX: ("mlx", "mlx-lm", "transformers"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trained:
    """What came of a trainer, which has written the adapter.

    Attributes:
        run: The run.
        changed: What the adapter changed, for the result.
        calls: Valid calls in answers to held-out prompts with tools; None: nothing was asked.
    """

    run: loop.TrainingRun
    changed: dict[str, Any]
    calls: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Learning:
    """What any trainer needs, and the folder that it writes the adapter into."""

    folder: Path
    tokenizer: Any
    chats: ChatTokenizer
    training: Sequence[Any]
    held_out: Sequence[Any]
    checkpoints: Checkpoints
    progress: Progress


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
    gate_file: GateFile | None = None
    draft: DraftPhase | None = None

    def run(self, out: Path, begin: float, progress: Progress) -> AdaptResult:
        """Train, and write what came of it."""
        tokenizer, context = self._tokenizer()
        if self.teacher is not None:
            self.teacher.check(tokenizer, self.source.given)
        if self.draft is not None:
            self.draft.check(tokenizer, self.source.given)
        chats = ChatTokenizer.of(
            tokenizer, folder_files.files(self.folder), min(self.max_length, context)
        )
        objective = objectives.get(self.settings.objective)
        training, held_out = (
            objective.tokens(chats, part) for part in (self.split.training, self.split.held_out)
        )
        _refuse_nothing(training, held_out, chats)
        lengths.tell(lengths.measure(chats.lengths, chats.most), progress)
        if self.gate_file is not None:
            self.gate_file.require_room(out, progress)
        checkpoints = Checkpoints(self._unfinished(out), self.settings.backend)
        with replacing(out) as folder, checkpoints:
            folder.mkdir()
            if self.teacher is not None:
                training, held_out = self.teacher.teach(
                    (training, held_out), checkpoints.teacher, progress
                )
            task = _Learning(
                folder=folder,
                tokenizer=tokenizer,
                chats=chats,
                training=training,
                held_out=held_out,
                checkpoints=checkpoints,
                progress=progress,
            )
            learn = self._by_mlx if self.settings.backend == MLX else self._by_torch
            trained = learn(task)
            gate = self._gate(task, trained, self.gate_file) if self.gate_file else {}
            result = self._result(out, begin, chats, training, trained, gate)
            self._report(folder, result)
        checkpoints.remove()  # the adapter is in its place
        self._track(out, result)
        return result

    def _by_torch(self, task: _Learning) -> _Trained:
        """Train with PEFT and TRL."""
        import torch

        torch.set_num_threads(self.threads)
        torch.manual_seed(self.settings.seed)
        model = self._model(task.progress)
        longest = min(task.chats.most, max(task.chats.lengths))
        step, predicted = memory.fitting(model, self.settings, longest, task.progress)
        training = loop.TrainingTask(
            model=model,
            tokenizer=task.tokenizer,
            training=task.training,
            held_out=task.held_out,
            settings=self.settings,
            step=step,
            checkpoints=task.checkpoints,
            progress=task.progress,
            tracked=self.tracked,
        )
        adapted, run = loop.train(training)
        outcome = None
        if self.types is not None:
            adapted, outcome = self._aware(training, adapted, run, self.types)
        wanted = objectives.get(self.settings.objective).wanted(self.split.held_out)
        changed = self._examine(adapted, task.chats, wanted, run)
        changed["costs"]["predicted_bytes"] = predicted
        changed["aware"] = outcome.to_dict() if outcome else {}
        calls = None
        if self.gate_file and (prompts := calling_prompts(wanted, task.chats)):
            calls = examination.valid_calls(adapted, task.chats, prompts)
        self._write(partial(self._save, adapted), task.folder)
        if self.draft is not None:
            drafted = self.draft.run(adapted, training)
            drafted.save(task.folder)
            changed["draft"] = drafted.to_dict()
        return _Trained(run=run, changed=changed, calls=calls)

    def _by_mlx(self, task: _Learning) -> _Trained:
        """Train with mlx-lm."""
        training = mlx_training.MLXTask(
            folder=self.folder,
            training=task.training,
            held_out=task.held_out,
            settings=self.settings,
            checkpoints=task.checkpoints,
            progress=task.progress,
            tracked=self.tracked,
        )
        run = training.run()
        costs = self._costs(run) | {"predicted_bytes": None}
        costs["peak_bytes"] = mlx_training.peak_bytes()
        changed: dict[str, Any] = {
            "base_figures": run.base_figures,
            "tuned_figures": run.best_figures,
            "costs": costs,
            "aware": {},
        }
        self._write(partial(training.save, run, self.source.given), task.folder)
        return _Trained(run=run, changed=changed)

    def _gate(self, task: _Learning, trained: _Trained, file: GateFile) -> dict[str, Any]:
        """What llama.cpp makes of the adapter that was written."""
        from kanna.training import gate  # loads what verifies files

        if self.settings.backend == TORCH:
            devices.release()  # the model that was trained: the runtime needs the room
        wanted = objectives.get(self.settings.objective).wanted(self.split.held_out)
        case = gate.AdapterCase(
            file=file,
            adapter=task.folder,
            held_out=task.held_out,
            run=trained.run,
            prompts=calling_prompts(wanted, task.chats),
            calls=trained.calls,
            chats=task.chats,
            scratch=task.checkpoints.folder / "gate",
            threads=self.threads,
            progress=task.progress,
        )
        return case.check().to_dict()

    def _costs(self, run: loop.TrainingRun) -> dict[str, Any]:
        return {
            "predicted_seconds": run.predicted_seconds,
            "training_seconds": run.seconds,
            "looking_seconds": run.looking_seconds,
        }

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

    def _report(self, folder: Path, result: AdaptResult) -> None:
        """Write what is known of the run."""
        data = result.to_dict() | {"kanna": __version__}
        write_json(folder / REPORT, data)
        write_text(folder / PAGE, adapt_page(plain(data)))

    def _write(self, save: Callable[[Path], None], folder: Path) -> None:
        """Write the adapter, and what it learned and did not."""
        save(folder)
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
        libraries = [version(name) for name in _LIBRARIES[self.settings.backend]]
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

        tokenizer = causal_model.load_tokenizer(self.folder)
        with causal_model.loading(self.folder):
            config = transformers.AutoConfig.from_pretrained(
                str(self.folder), local_files_only=True, trust_remote_code=False
            )
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
        return tokenizer, int(getattr(config, "max_position_embeddings", 0) or self.max_length)

    def _model(self, progress: Progress) -> Any:
        """The base, as floats or in few bits."""
        if (bits := self.settings.base_bits) is None:
            return causal_model.load(self.folder, self.settings.device)
        memory.give_back_at_once()
        with causal_model.loading(self.folder):
            return quantized_base.load(self.folder, bits, self.threads, progress)

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
            "costs": self._costs(run) | {"peak_bytes": peak},
        }

    def _result(
        self,
        out: Path,
        begin: float,
        chats: ChatTokenizer,
        training: Sequence[Any],
        trained: _Trained,
        gate: dict[str, Any],
    ) -> AdaptResult:
        run, aware_outcome = trained.run, trained.changed["aware"]
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
            **trained.changed,
            gate=gate,
            notes=[
                *notes.of(self.settings, self.read, self.split.near, chats, run),
                *([aware.words(aware_outcome)] if aware_outcome else []),
                *gate_notes(gate),
                *drafts.notes(trained.changed.get("draft", {})),
            ],
        )

    def _settings(self, run: loop.TrainingRun) -> dict[str, Any]:
        """How it was trained, with the learning rate that a test found."""
        given = asdict(self.settings) | {"max_length": self.max_length}
        given["alpha"] = self.settings.strength
        if run.rate_test:
            given["learning_rate"] = run.rate_test["rate"]
        given |= {"teacher": self.teacher.source.given} if self.teacher else {}
        return given | ({"for_plan": self.types.name} if self.types else {})


def _refuse_nothing(training: Sequence[Any], held_out: Sequence[Any], chats: ChatTokenizer) -> None:
    if not training or not held_out:
        raise UsageError(
            f"no answer begins within {chats.most} tokens in {chats.unlearned} examples",
            expected="examples that fit",
            todo="raise --max-length, or shorten the prompts",
        )
