"""One training run of PEFT and TRL, watched: held-out loss, time, NaN; the best state is kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from kanna._util.progress import Progress, remark
from kanna.errors import KannaError
from kanna.tracking import TrackedRun
from kanna.training import objectives, rate_finder
from kanna.training.checkpoints import Checkpoints
from kanna.training.objectives.base import TrainerParts
from kanna.training.run import TrainingRun
from kanna.training.settings import TrainingSettings
from kanna.training.watching import Watcher, callback

__all__ = ["TrainingRun", "train"]


def train(
    model: Any,
    tokenizer: Any,
    training: Sequence[Any],
    held_out: Sequence[Any],
    settings: TrainingSettings,
    *,
    checkpoints: Checkpoints,
    progress: Progress,
    tracked: TrackedRun,
) -> tuple[Any, TrainingRun]:
    """Train an adapter beside `model`; returns PEFT's model at its best, and the run.

    Args:
        model: A causal language model of transformers.
        tokenizer: Its tokenizer.
        training: What is learned.
        held_out: What the run is judged by.
        settings: How it is trained.
        checkpoints: Where a run of the same goes on from.
        progress: Where progress is reported.
        tracked: Is told the losses of every step.

    Raises:
        KannaError: The loss was no number before anything improved.
    """
    import peft
    import transformers

    run, latest = checkpoints.begin()
    objective, steps = objectives.get(settings.objective), settings.total_steps(len(training))
    with _quiet(transformers):
        parts = TrainerParts(
            model=model,
            tokenizer=tokenizer,
            training=training,
            lora=peft.LoraConfig(**settings.lora()),
            arguments=arguments(settings, checkpoints.folder, steps),
            settings=settings,
        )
        if settings.auto:
            parts = _with_found_rate(parts, held_out, run, checkpoints, progress)
        trainer = objective.trainer(parts)
        watcher = Watcher(
            run=run,
            model=trainer.model,
            judge=objective.judge(held_out, parts.settings),
            settings=parts.settings,
            steps=steps,
            checkpoints=checkpoints,
            progress=progress,
            tracked=tracked,
        )
        _watch(trainer, watcher)
        progress.start("train", steps, "steps")
        progress.advance(run.resumed)
        trainer.train(resume_from_checkpoint=latest and str(latest))
        progress.finish()
    _keep_best(trainer.model, run, parts.settings)
    return trainer.model, run


def _watch(trainer: Any, watcher: Watcher) -> None:
    """Let a watcher see every step, and nothing be printed."""
    import transformers

    trainer.remove_callback(transformers.PrinterCallback)
    trainer.add_callback(callback(transformers, watcher))


def _with_found_rate(
    parts: TrainerParts,
    held_out: Sequence[Any],
    run: TrainingRun,
    checkpoints: Checkpoints,
    progress: Progress,
) -> TrainerParts:
    """The parts with the learning rate that a test finds, or has found before."""
    settings = parts.settings
    if not run.rate_test:
        trial = rate_finder.test_arguments(settings, arguments, checkpoints.folder)
        objective = objectives.get(settings.objective)
        test = rate_finder.find(
            objective, replace(parts, arguments=trial), held_out, settings.learning_rate, progress
        )
        run.rate_test = test.to_dict()
        checkpoints.keep_rate(run.rate_test)
    sentence = rate_finder.words(run.rate_test)
    remark(progress, f"{sentence[0].upper()}{sentence[1:]}.")
    rate = float(run.rate_test["rate"])
    return replace(
        parts,
        arguments=parts.arguments | {"learning_rate": rate},
        settings=replace(settings, learning_rate=rate),
    )


def _keep_best(model: Any, run: TrainingRun, settings: TrainingSettings) -> None:
    import peft

    if not run.state or not math.isfinite(run.best_loss):
        raise KannaError(
            f"the loss is no number after {run.steps} steps (learning rate "
            f"{settings.learning_rate:g})",
            expected="a loss that falls",
            todo=f"try --learning-rate {settings.learning_rate / 10:g}",
        )
    peft.set_peft_model_state_dict(model, run.state)


def arguments(settings: TrainingSettings, scratch: Path, steps: int) -> dict[str, Any]:
    """What every trainer of TRL takes.

    Args:
        settings: How it is trained.
        scratch: Where checkpoints lie.
        steps: Steps at most.
    """
    return {
        "output_dir": str(scratch),
        "max_steps": steps,
        "per_device_train_batch_size": settings.batch,
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
        "gradient_checkpointing": settings.device != "cpu",
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
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    logger = logging.getLogger("trl")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
        transformers.logging.set_verbosity(level)
