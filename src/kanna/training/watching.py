"""A run is watched: held-out loss, time, losses that are no number; the best state is kept."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kanna._util.progress import Progress, done_before, ends_within
from kanna.tracking import TrackedRun
from kanna.training import loss_curve
from kanna.training.checkpoints import EVERY, Checkpoints
from kanna.training.objectives.base import HeldOutFigures, Judge
from kanna.training.run import TrainingRun
from kanna.training.settings import TrainingSettings

_PATIENCE = 3
"""Looks at the held-out loss without an improvement, after which training stops."""
_LOOKS = 8
"""Looks at the held-out loss in a run, about."""
LOOKS_SHARE = 0.2
"""Of the time of training that looks between its steps may take, by the tokens that are read."""
_PASSES = 2.0
"""Times a forward pass that a step takes at least: forward, and backward through every layer."""
_FIRST = 5
"""Steps by which the time of all is predicted."""
_LEAST = 1e-4
"""A share of the held-out loss that counts as an improvement."""


def interval(steps: int, wanted: int | None, *, look: int, step: float) -> int:
    """Steps between two looks; what is read decides, so that every machine looks after the same.

    Args:
        steps: Steps of the run.
        wanted: As the settings say; None: an eighth of the run.
        look: Tokens that a look reads.
        step: Tokens that a step reads, in the mean.
    """
    most = LOOKS_SHARE / (1 - LOOKS_SHARE) * _PASSES * step * steps / max(1, look)
    least = math.ceil(steps / max(1, math.floor(most)))
    return min(max(1, wanted or steps // _LOOKS, least), steps)


@dataclass(slots=True, kw_only=True)
class Watcher:
    """Looks at losses and the clock after every step.

    Attributes:
        run: What is known of the run; filled in while it goes on.
        model: What is trained.
        judge: What it is judged by.
        state: Values of a model that are trained, a copy.
        settings: How it is trained.
        steps: Steps at most.
        every: Steps between two looks, see `interval`.
        whole: A checkpoint comes after a multiple of so many steps.
        checkpoints: Where it goes on from when it is killed.
        progress: Where progress is reported.
        tracked: Is told the losses of every step.
    """

    run: TrainingRun
    model: Any
    judge: Judge
    state: Callable[[Any], dict[str, Any]]
    settings: TrainingSettings
    steps: int
    every: int
    whole: int = 1
    checkpoints: Checkpoints
    progress: Progress
    tracked: TrackedRun
    _begin: float = field(init=False)
    _saved: float = field(init=False)

    def __post_init__(self) -> None:
        self._saved = time.perf_counter()
        self._begin = self._saved - self.run.seconds

    def begin(self) -> None:
        """Look at the base, unless an earlier run has; then steps are counted."""
        if not self.run.resumed:
            self.progress.start("held-out loss of the base", None)
            self.run.base_loss = self.look(0)
        self.progress.start("train", self.steps, "steps")
        done_before(self.progress, self.run.resumed)
        ends_within(self.progress, self._begin + self.settings.minutes * 60 - time.perf_counter())

    def look(self, step: int) -> float:
        """The held-out loss after a step; keeps the state that is the best."""
        run, begin = self.run, time.perf_counter()
        judged = self.judge(self.model)
        run.looking_seconds += time.perf_counter() - begin
        loss, figures = judged.loss, known(judged)
        if step == 0:
            run.base_figures, run.base_each = figures, list(judged.each)
        if math.isfinite(loss) and loss < run.best_loss * (1 - _LEAST):
            run.state = self.state(self.model)
            run.best_loss, run.best_step, run.waited = loss, step, 0
            run.best_figures, run.best_each = figures, list(judged.each)
        else:
            run.waited += 1
        return loss

    def logged(self, step: int, loss: float) -> None:
        """Note the loss of a step."""
        self.run.history.append({"step": step, "loss": loss})
        self.tracked.metrics({"loss": loss}, step)
        if not math.isfinite(loss):
            self.run.stopped = "nan"

    def stepped(self, step: int) -> None:
        """Decide after a step whether the run goes on."""
        run = self.run
        run.steps = step
        # transformers logs after this; the loss of a step that went wrong shows there.
        self.progress.advance(1, self._told())
        run.seconds = time.perf_counter() - self._begin
        if not run.predicted_seconds and step >= min(_FIRST, self.steps):
            run.predicted_seconds = run.seconds * self.steps / step
        late = run.seconds > self.settings.minutes * 60
        if step % self.every == 0 or late or step == self.steps:
            loss = self.look(step)
            run.history.append({"step": step, "held_out_loss": loss})
            self.tracked.metrics({"held_out_loss": loss}, step)
            if not math.isfinite(loss):
                run.stopped = "nan"
            elif run.waited >= _PATIENCE:
                run.stopped = "early"
            elif late and step < self.steps:
                run.stopped = "time"

    def _told(self) -> str:
        """The losses so far, beside the bar."""
        losses = [seen["loss"] for seen in self.run.history if "loss" in seen]
        curve = f"loss {loss_curve.drawn(losses)} {losses[-1]:.3f}, " if losses else ""
        return f"{curve}held-out {self.run.best_loss:.3f}"

    @property
    def saves(self) -> bool:
        """Whether a checkpoint is due."""
        goes_on = self.run.stopped == "done" and self.run.steps < self.steps
        return goes_on and self._is_due

    @property
    def _is_due(self) -> bool:
        late = time.perf_counter() - self._saved >= EVERY
        return late and self.run.steps % self.whole == 0

    def saved(self, made: Path) -> None:
        """Complete the checkpoint that transformers wrote."""
        self.checkpoints.complete(made, self.run)
        self._saved = time.perf_counter()


def known(judged: HeldOutFigures) -> dict[str, float]:
    """The figures that there are, without the loss.

    Args:
        judged: What a judge says.
    """
    named = {
        "domain_loss": judged.domain_loss,
        "accuracy": judged.accuracy,
        "margin": judged.margin,
        "teacher_kl": judged.teacher_kl,
    }
    return {name: value for name, value in named.items() if value is not None}


def callback(transformers: Any, watcher: Watcher) -> Any:
    """A watcher as a callback of transformers, which is imported only now.

    Args:
        transformers: The library.
        watcher: What is told of every step.
    """

    class Watch(transformers.TrainerCallback):
        """Hands on what the trainer tells."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            watcher.begin()

        def on_log(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            loss = (more.get("logs") or {}).get("loss")
            if loss is not None:
                watcher.logged(state.global_step, float(loss))
                if watcher.run.stopped == "nan":
                    control.should_training_stop, control.should_save = True, False

        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            watcher.stepped(state.global_step)
            control.should_training_stop |= watcher.run.stopped != "done"
            control.should_save = watcher.saves

        def on_save(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            watcher.saved(Path(args.output_dir) / f"checkpoint-{state.global_step}")

    return Watch()
