"""What is known of a training run while it goes on."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True, kw_only=True)
class TrainingRun:
    """What came of a run.

    Attributes:
        base_loss: Held-out loss before the first step, in nats per learned token.
        best_loss: The least there was.
        base_figures: All held-out figures before the first step.
        best_figures: Those of the least loss.
        base_each: Of every held-out record what its objective judges, before the first step.
        best_each: The same at the least loss.
        best_step: After which step.
        steps: That were made.
        tokens: That were read, padding aside.
        history: Step, training loss, and held-out loss where it was looked at.
        stopped: Why it ended: `done`, `early`, `time` or `nan`.
        waited: Looks at the held-out loss since then.
        seconds: Time that training took, before a run that goes on too.
        looking_seconds: Time of them that looks at held-out examples took.
        predicted_seconds: Time that all steps would take, as the first ones said.
        resumed: Step of the checkpoint that it went on from; 0: it began anew.
        micro_batch: Examples that were read together in the end.
        recomputes: Whether layers were computed again in the backward pass, in the end.
        rate_test: How the learning rate was found, see `RateTest`; {}: it was given.
        state: Values of what is trained at its best.
    """

    base_loss: float = math.nan
    best_loss: float = math.inf
    base_figures: dict[str, float] = field(default_factory=dict[str, float])
    best_figures: dict[str, float] = field(default_factory=dict[str, float])
    base_each: list[float] = field(default_factory=list[float])
    best_each: list[float] = field(default_factory=list[float])
    best_step: int = 0
    steps: int = 0
    tokens: int = 0
    history: list[dict[str, float]] = field(default_factory=list[dict[str, float]])
    stopped: str = "done"
    waited: int = 0
    seconds: float = 0.0
    looking_seconds: float = 0.0
    predicted_seconds: float = 0.0
    resumed: int = 0
    micro_batch: int = 0
    recomputes: bool = False
    rate_test: dict[str, Any] = field(default_factory=dict[str, Any])
    state: dict[str, Any] = field(default_factory=dict[str, Any])

    def costs(self) -> dict[str, float]:
        """Seconds that it took, as results have them."""
        return {
            "predicted_seconds": self.predicted_seconds,
            "training_seconds": self.seconds,
            "looking_seconds": self.looking_seconds,
        }
