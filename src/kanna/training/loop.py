"""One training run of PEFT and TRL, watched: held-out loss, time, NaN; the best state is kept."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kanna._util.progress import Progress
from kanna.errors import KannaError
from kanna.runtimes import torch_engine
from kanna.tracking import TrackedRun
from kanna.training import memory, objectives, planned_values, rate_finder
from kanna.training.checkpoints import Checkpoints
from kanna.training.memory import MicroBatch
from kanna.training.objectives.base import TrainerParts
from kanna.training.planned_values import PlannedValues
from kanna.training.rate_finder import RateTest
from kanna.training.run import TrainingRun
from kanna.training.settings import TrainingSettings
from kanna.training.trained_weights import LowRankChanges, TrainedWeights
from kanna.training.watching import Watcher, callback, interval

__all__ = ["TrainingRun", "TrainingTask", "fingerprint", "train"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingTask:
    """What is trained, and with what.

    Attributes:
        model: A causal language model of transformers.
        tokenizer: Its tokenizer.
        training: What is learned.
        held_out: What the run is judged by.
        settings: How it is trained.
        step: How a step is made, unless memory runs out.
        checkpoints: Where a run of the same goes on from.
        progress: Where progress is reported.
        tracked: Is told the losses of every step.
        trained: What of the model is trained.
        row_length: Tokens of a row that examples are packed into; None: each is padded.
        begin: Values of the adapter to begin with; None: PEFT's.
        planned: Lets the model compute with what a plan stores; None: with its own values.
    """

    model: Any
    tokenizer: Any
    training: Sequence[Any]
    held_out: Sequence[Any]
    settings: TrainingSettings
    step: MicroBatch
    checkpoints: Checkpoints
    progress: Progress
    tracked: TrackedRun
    trained: TrainedWeights = field(default_factory=LowRankChanges)
    row_length: int | None = None
    begin: dict[str, Any] | None = None
    planned: PlannedValues | None = None

    def run(self) -> tuple[Any, TrainingRun]:
        """Go on from the last checkpoint, or begin anew."""
        import torch
        import transformers

        torch.manual_seed(self.settings.seed)
        run, latest = self.checkpoints.begin()
        run.micro_batch, run.recomputes = self.step.together, self.step.recomputes
        steps = self.settings.total_steps(len(self.training))
        with _quiet(transformers):
            parts = self._parts(steps)
            if self.settings.auto:
                parts = self._with_found_rate(parts, run)
            trainer = objectives.get(self.settings.objective).trainer(parts)
            self._prepare(trainer)
            _watch(trainer, self._watcher(trainer.model, run, parts.settings, steps))
            trainer.train(resume_from_checkpoint=latest and str(latest))
            self.progress.finish()
        if self.planned is not None:
            self.planned.detach()
        self._keep_best(trainer.model, run, parts.settings)
        return trainer.model, run

    def _prepare(self, trainer: Any) -> None:
        """Give the model of a trainer what it begins with."""
        import transformers

        if self.begin is not None:
            self.trained.put(trainer.model, self.begin)
        if self.planned is not None:
            self.planned.attach(trainer.model)
            trainer.add_callback(planned_values.callback(transformers, self.planned))

    def _parts(self, steps: int) -> TrainerParts:
        return TrainerParts(
            model=self.model,
            tokenizer=self.tokenizer,
            training=self.training,
            lora=self.trained.lora(self.settings),
            arguments=arguments(self.settings, self.checkpoints.folder, steps, self.step),
            settings=self.settings,
            row_length=self.row_length,
        )

    def _watcher(
        self, model: Any, run: TrainingRun, settings: TrainingSettings, steps: int
    ) -> Watcher:
        mean = sum(one.read for one in self.training) / len(self.training)
        look = sum(one.read for one in self.held_out)
        judge = objectives.get(settings.objective).judge(self.held_out, settings)
        if self.planned is not None:
            judge = planned_values.judged(judge, self.planned)
        return Watcher(
            run=run,
            model=model,
            judge=judge,
            state=self.trained.state,
            settings=settings,
            steps=steps,
            whole=1 if self.planned is None else planned_values.EVERY,
            every=interval(steps, settings.look_every, look=look, step=settings.batch * mean),
            checkpoints=self.checkpoints,
            progress=self.progress,
            tracked=self.tracked,
        )

    def _with_found_rate(self, parts: TrainerParts, run: TrainingRun) -> TrainerParts:
        """The parts with the learning rate that a test finds, or has found before."""
        settings = parts.settings

        def find() -> RateTest:
            trial = rate_finder.test_arguments(
                arguments(settings, self.checkpoints.folder, rate_finder.STEPS, self.step)
            )
            return rate_finder.find(
                objectives.get(settings.objective),
                replace(parts, arguments=trial),
                self.held_out,
                self.progress,
                restore=lambda: self.trained.restore(self.model),
            )

        rate = rate_finder.settled(run, self.checkpoints, find, self.progress)
        return replace(
            parts,
            arguments=parts.arguments | {"learning_rate": rate},
            settings=replace(settings, learning_rate=rate),
        )

    def _keep_best(self, model: Any, run: TrainingRun, settings: TrainingSettings) -> None:
        """Give the model the values back at which its held-out loss was the least."""
        if not run.state or not math.isfinite(run.best_loss):
            raise KannaError(
                f"the loss is no number after {run.steps} steps (learning rate "
                f"{settings.learning_rate:g})",
                expected="a loss that falls",
                todo=f"try --learning-rate {settings.learning_rate / 10:g}",
            )
        self.trained.put(model, run.state)

    def restore(self) -> None:
        """Make the model what it was before."""
        if self.planned is not None:
            self.planned.detach()
        self.trained.restore(self.model)


def train(task: TrainingTask) -> tuple[Any, TrainingRun]:
    """Train; returns the model at its best, PEFT's where changes lie beside it, and the run.

    Args:
        task: What is trained.

    Raises:
        KannaError: The loss was no number before anything improved, or memory does not suffice.
    """
    return memory.within(
        task.step,
        lambda step: replace(task, step=step).run(),
        task.restore,
        task.progress,
    )


def fingerprint(adapted: Any) -> str:
    """A short hash of the values of the adapter of a model of PEFT."""
    digest = hashlib.sha256()
    for name, value in sorted(LowRankChanges().state(adapted).items()):
        digest.update(name.encode())
        digest.update(value.float().cpu().numpy().tobytes())
    return digest.hexdigest()[:8]


def _watch(trainer: Any, watcher: Watcher) -> None:
    """Let a watcher see every step, and nothing be printed."""
    import transformers

    trainer.remove_callback(transformers.PrinterCallback)
    trainer.add_callback(callback(transformers, watcher))


def arguments(
    settings: TrainingSettings, scratch: Path, steps: int, step: MicroBatch
) -> dict[str, Any]:
    """What every trainer of TRL takes.

    Args:
        settings: How it is trained.
        scratch: Where checkpoints lie.
        steps: Steps at most.
        step: How one is made.
    """
    return {
        **step.arguments(),
        "output_dir": str(scratch),
        "max_steps": steps,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": "constant_with_warmup",
        "warmup_steps": min(10, max(1, steps // 10)),
        "max_grad_norm": 1.0,
        "weight_decay": 0.0,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": settings.device == "cpu",
        "bf16": settings.device == "cuda",
        "seed": settings.seed,
        "dataloader_pin_memory": False,
    }


@contextmanager
def _quiet(transformers: Any) -> Any:
    """Nothing of the libraries' remarks and bars, which are not about the user's data."""
    import logging
    import warnings

    import datasets

    datasets.disable_progress_bars()
    logger = logging.getLogger("trl")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with torch_engine.quiet(transformers), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
