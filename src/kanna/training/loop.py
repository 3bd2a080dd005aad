"""One training run of PEFT and TRL, watched: held-out loss, time, NaN; the best state is kept."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kanna._util.progress import Progress
from kanna.errors import KannaError
from kanna.training.settings import TrainingSettings
from kanna.training.tokens import UNLEARNED, TokenizedExample

_PATIENCE = 3
"""Looks at the held-out loss without an improvement, after which training stops."""
_LOOKS = 8
"""Looks at the held-out loss in a run, about."""
_LEAST = 1e-4
"""A share of the held-out loss that counts as an improvement."""


@dataclass(slots=True, kw_only=True)
class TrainingRun:
    """What came of a run.

    Attributes:
        base_loss: Held-out loss before the first step, in nats per learned token.
        best_loss: The least there was.
        best_step: After which step.
        steps: That were made.
        tokens: That were read, padding aside.
        history: Step, training loss, and held-out loss where it was looked at.
        stopped: Why it ended: `done`, `early`, `time` or `nan`.
        state: Values of the adapter at its best.
    """

    base_loss: float = math.nan
    best_loss: float = math.inf
    best_step: int = 0
    steps: int = 0
    tokens: int = 0
    history: list[dict[str, float]] = field(default_factory=list[dict[str, float]])
    stopped: str = "done"
    state: dict[str, Any] = field(default_factory=dict[str, Any])


def held_out_loss(model: Any, examples: Sequence[TokenizedExample], device: Any) -> float:
    """Mean loss per learned token, in nats.

    Args:
        model: A causal language model of transformers.
        examples: Held-out examples.
        device: Where it runs.
    """
    import torch

    training = model.training
    model.eval()
    total, count = 0.0, 0
    with torch.inference_mode():
        for one in examples:
            labels = torch.tensor(one.labels[1:], device=device)
            kept = labels != UNLEARNED
            if not bool(kept.any()):
                continue
            logits = model(input_ids=torch.tensor([one.ids], device=device)).logits[0, :-1]
            chosen = torch.nn.functional.cross_entropy(
                logits[kept].float(), labels[kept], reduction="sum"
            )
            total, count = total + float(chosen), count + int(kept.sum())
    model.train(training)
    return total / max(1, count)


def train(
    model: Any,
    tokenizer: Any,
    training: Sequence[TokenizedExample],
    held_out: Sequence[TokenizedExample],
    settings: TrainingSettings,
    *,
    scratch: Path,
    progress: Progress,
) -> tuple[Any, TrainingRun]:
    """Train an adapter beside `model`; returns PEFT's model at its best, and the run.

    Args:
        model: A causal language model of transformers.
        tokenizer: Its tokenizer.
        training: What is learned.
        held_out: What the run is judged by.
        settings: How it is trained.
        scratch: A folder for what TRL writes.
        progress: Where progress is reported.

    Raises:
        KannaError: The loss was no number before anything improved.
    """
    import datasets
    import peft
    import transformers
    from trl.trainer.sft_trainer import SFTTrainer

    datasets.disable_progress_bars()
    run = TrainingRun()
    rows = [{"input_ids": one.ids, "labels": one.labels} for one in training]
    steps = settings.total_steps(len(rows))
    with _quiet(transformers):
        trainer = SFTTrainer(
            model=model,
            args=_arguments(settings, scratch, steps),
            train_dataset=datasets.Dataset.from_list(rows),
            processing_class=tokenizer,
            peft_config=peft.LoraConfig(**settings.lora()),
        )
        trainer.remove_callback(transformers.PrinterCallback)
        adapted: Any = trainer.model
        device = next(adapted.parameters()).device
        watch = _watcher(transformers, run, held_out, settings, steps, progress)
        trainer.add_callback(watch(adapted, device))
        progress.start("train", steps, "steps")
        trainer.train()
        progress.finish()
    if not run.state or not math.isfinite(run.best_loss):
        raise KannaError(
            f"the loss is no number after {run.steps} steps (learning rate "
            f"{settings.learning_rate:g})",
            expected="a loss that falls",
            todo=f"try --learning-rate {settings.learning_rate / 10:g}",
        )
    peft.set_peft_model_state_dict(adapted, run.state)
    return adapted, run


def _arguments(settings: TrainingSettings, scratch: Path, steps: int) -> Any:
    from trl.trainer.sft_config import SFTConfig

    return SFTConfig(
        output_dir=str(scratch),
        max_steps=steps,
        per_device_train_batch_size=settings.batch,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=min(10, max(1, steps // 10)),
        max_grad_norm=1.0,
        weight_decay=0.0,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=settings.device == "cpu",
        bf16=settings.device == "cuda",
        gradient_checkpointing=settings.device != "cpu",
        seed=settings.seed,
        packing=False,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        dataloader_pin_memory=False,
    )


def _watcher(
    transformers: Any,
    run: TrainingRun,
    held_out: Sequence[TokenizedExample],
    settings: TrainingSettings,
    steps: int,
    progress: Progress,
) -> Any:
    """A callback class of transformers, which is imported only now."""
    every = max(1, min(settings.look_every or steps // _LOOKS, steps))
    begin = time.perf_counter()

    class Watch(transformers.TrainerCallback):
        """Looks at losses and the clock."""

        def __init__(self, model: Any, device: Any) -> None:
            self._model, self._device, self._waited = model, device, 0

        def _look(self, step: int) -> float:
            import peft

            loss = held_out_loss(self._model, held_out, self._device)
            if math.isfinite(loss) and loss < run.best_loss * (1 - _LEAST):
                state = peft.get_peft_model_state_dict(self._model, save_embedding_layers=False)
                run.state = {k: v.detach().clone() for k, v in state.items()}
                run.best_loss, run.best_step, self._waited = loss, step, 0
            else:
                self._waited += 1
            return loss

        def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            run.base_loss = self._look(0)

        def on_log(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            loss = (more.get("logs") or {}).get("loss")
            if loss is None:
                return
            run.history.append({"step": state.global_step, "loss": float(loss)})
            if not math.isfinite(loss):
                run.stopped = "nan"
                control.should_training_stop = True

        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            run.steps = state.global_step
            # transformers logs after this; the loss of a step that went wrong shows there.
            progress.advance(1, f"held-out loss {run.best_loss:.3f}")
            late = time.perf_counter() - begin > settings.minutes * 60
            if state.global_step % every == 0 or late or state.global_step == steps:
                loss = self._look(state.global_step)
                run.history.append({"step": state.global_step, "held_out_loss": loss})
                if not math.isfinite(loss):
                    run.stopped = "nan"
                elif self._waited >= _PATIENCE:
                    run.stopped = "early"
                elif late and state.global_step < steps:
                    run.stopped = "time"
                if run.stopped != "done":
                    control.should_training_stop = True

    return Watch


@contextmanager
def _quiet(transformers: Any) -> Any:
    """Nothing of the libraries' remarks and bars, which are not about the user's data."""
    import logging
    import warnings

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
