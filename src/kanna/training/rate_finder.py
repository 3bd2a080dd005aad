"""`--auto`: the speed of learning found by a short test, before anything is trained for good.

The rate rises step by step from far too slow to far too fast (the range test of Smith, Cyclical
Learning Rates, arXiv:1506.01186), and held-out examples say where learning does best and where it
breaks. Then the adapter is as it was, and so are random numbers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from kanna._util.progress import Progress, remark
from kanna.training.checkpoints import Checkpoints
from kanna.training.objectives.base import Judge, Objective, TrainerParts
from kanna.training.run import TrainingRun
from kanna.training.settings import usual_rate

STEPS = 48
"""Steps of the test."""
_LOWEST, _HIGHEST = 1e-5, 1e-1
"""Rates that it goes through, for changes beside the weights."""
_LOOK = 4
"""Steps between two looks at held-out examples."""
JUDGES = 16
"""Held-out examples that are looked at."""
_BROKEN = 1.5
"""Times the loss before, from which the test has seen enough."""
_BELOW = 5.0
"""The rate is so far below the one that did best: a test of so few steps flatters haste."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RateTest:
    """What the test came to.

    Attributes:
        rate: The rate to train with.
        best: The rate at which the held-out loss was least; None: nothing lowered it.
        curve: Rate and held-out loss of every look, the loss before any step first.
        steps: That were made.
        seconds: That they took.
    """

    rate: float
    best: float | None
    curve: list[dict[str, float]]
    steps: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def words(test: dict[str, Any]) -> str:
    """What people read of a test, as a sentence without its full stop.

    Args:
        test: `RateTest.to_dict()`.
    """
    rate, best = test["rate"], test["best"]
    if best is None:
        return (
            f"in {test['steps']} trial steps no speed of learning lowered the held-out loss: the "
            f"usual one is taken (learning rate {rate:.2g})"
        )
    return (
        f"{test['steps']} trial steps went from slow to fast learning: it did best at {best:.2g} "
        f"and got worse beyond, so a fifth of that is taken (learning rate {rate:.2g})"
    )


@dataclass(slots=True, kw_only=True)
class RateRamp:
    """Raises the rate before every step, and looks at held-out examples.

    Attributes:
        model: What is trained.
        judge: Its held-out loss.
        progress: Where progress is reported.
        share: Of the rates that it goes through, see `settings.usual_rate`.
        curve: As `RateTest` has it.
        over: Whether learning broke, so that the test has seen enough.
    """

    model: Any
    judge: Judge
    progress: Progress
    share: float = 1.0
    curve: list[dict[str, float]] = field(default_factory=list[dict[str, float]])
    over: bool = False

    def rate(self, step: int) -> float:
        """The rate of a step, from 0."""
        return self.share * _LOWEST * (_HIGHEST / _LOWEST) ** (step / (STEPS - 1))

    def look(self, step: int) -> None:
        """The held-out loss after so many steps."""
        loss = self.judge(self.model).loss
        self.curve.append({"rate": self.rate(step - 1) if step else 0.0, "loss": loss})
        first = self.curve[0]["loss"]
        self.over = not math.isfinite(loss) or loss > _BROKEN * first + 0.1

    def stepped(self, step: int) -> None:
        """After a step."""
        self.progress.advance(1)
        if step % _LOOK == 0:
            self.look(step)

    def result(self, usual: float, steps: int, seconds: float) -> RateTest:
        """What the test came to.

        Args:
            usual: The rate to take where no rate lowers the held-out loss.
            steps: That were made.
            seconds: That they took.
        """
        rate, best = pick(self.curve, usual)
        return RateTest(rate=rate, best=best, curve=self.curve, steps=steps, seconds=seconds)


def settled(
    run: TrainingRun, checkpoints: Checkpoints, find: Callable[[], RateTest], progress: Progress
) -> float:
    """The rate to train with, found now or by the run that this one goes on with.

    Args:
        run: Gets the test.
        checkpoints: Where it is kept.
        find: Makes the test.
        progress: Where it is told.
    """
    if not run.rate_test:
        run.rate_test = find().to_dict()
        checkpoints.keep_rate(run.rate_test)
    sentence = words(run.rate_test)
    remark(progress, f"{sentence[0].upper()}{sentence[1:]}.")
    return float(run.rate_test["rate"])


def find(
    objective: Objective,
    parts: TrainerParts,
    held_out: Sequence[Any],
    progress: Progress,
    *,
    restore: Callable[[], None],
) -> RateTest:
    """Find the rate to train with; the model is as it was afterwards.

    Args:
        objective: What is learned.
        parts: What a trainer is made from, with STEPS steps at most.
        held_out: Held-out records in tokens; the first of them judge.
        progress: Where progress is reported.
        restore: Makes the model what it was.
    """
    import torch
    import transformers

    begin = time.perf_counter()
    progress.start("learning rate", STEPS, "steps")
    with torch.random.fork_rng():
        trainer = objective.trainer(parts)
        trainer.remove_callback(transformers.PrinterCallback)
        judge = objective.judge(held_out[:JUDGES], parts.settings)
        ramp = RateRamp(
            model=trainer.model,
            judge=judge,
            progress=progress,
            share=usual_rate(1.0, parts.settings.method),
        )
        trainer.add_callback(_callback(transformers, ramp))
        trainer.train()
        steps = int(trainer.state.global_step)
        restore()
    progress.finish()
    return ramp.result(parts.settings.learning_rate, steps, time.perf_counter() - begin)


def pick(curve: Sequence[dict[str, float]], usual: float) -> tuple[float, float | None]:
    """The rate to take, and the one that did best; the usual one and None where nothing helped.

    Args:
        curve: Rates and held-out losses, the loss before any step first.
        usual: What is taken where no loss is lower than the first.
    """
    known = [point for point in curve if math.isfinite(point["loss"])]
    if not known:
        return usual, None
    least = min(known, key=lambda point: point["loss"])
    if least["rate"] == 0.0:
        return usual, None
    return float(f"{least['rate'] / _BELOW:.2g}"), least["rate"]


def test_arguments(arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a trainer for the test.

    Args:
        arguments: Those of a run of STEPS steps.
    """
    return arguments | {"warmup_steps": 0, "lr_scheduler_type": "constant"}


def _callback(transformers: Any, ramp: RateRamp) -> Any:
    """A ramp as a callback of transformers, which is imported only now."""

    class Raise(transformers.TrainerCallback):
        """Sets the rate of every step."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            ramp.look(0)

        def on_step_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            for group in more["optimizer"].param_groups:
                group["lr"] = ramp.rate(state.global_step)

        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            ramp.stepped(state.global_step)
            control.should_training_stop |= ramp.over

    return Raise()
