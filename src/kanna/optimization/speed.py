"""Speed as a budget: seconds that the matrices of a plan may take, and what they are predicted to.

`quality` looks for the least divergence, under a floor if there is one. `speed` looks for the
fastest plan that is predicted no farther than the plain preset a user would take for these bytes.
`balanced` takes half of the time that `speed` gains, for as little divergence as that can cost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kanna.errors import PlanError
from kanna.hardware.encoding_speed import EncodingSpeeds
from kanna.hardware.roofline import PredictedSpeed
from kanna.hardware.token_work import TensorWork, matrix_work
from kanna.model import Model
from kanna.plan.allocate import Choice, Option, allocate
from kanna.plan.timed import allocate_timed, fastest, total_seconds

OBJECTIVES = ("quality", "balanced", "speed")
POINTS = 7
"""Speeds in the table of the report."""
_LEAST = 1 + 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedGoal:
    """What is known of the costs of encodings, and what is asked for.

    Attributes:
        table: Microseconds by encoding.
        work: Weights of every matrix that a token is multiplied with.
        floor: Tokens per second that are generated at least; None: as it comes.
        objective: One of OBJECTIVES.
    """

    table: EncodingSpeeds
    work: Mapping[str, TensorWork]
    floor: float | None = None
    objective: str = "quality"

    @classmethod
    def of(
        cls, table: EncodingSpeeds, model: Model, floor: float | None, objective: str
    ) -> SpeedGoal:
        """The goal for the matrices of a model."""
        return cls(table=table, work=matrix_work(model), floor=floor, objective=objective)

    def timed(
        self, choices: Sequence[Choice], members: Mapping[str, Sequence[str]] | None = None
    ) -> list[Choice]:
        """The choices with the time of every option; options of unknown time are left out.

        Args:
            choices: Named by a matrix each.
            members: The matrices that share a choice, by its name, where they are several.
        """
        shared = members or {}
        return [
            replace(c, options=self._timed(shared.get(c.name, [c.name]), c.options))
            for c in choices
        ]

    def _timed(self, names: Sequence[str], options: Sequence[Option]) -> list[Option]:
        # Rows of an embedding are looked up: it has no work.
        works = [self.work[name] for name in names if name in self.work]
        timed: list[Option] = []
        for option in options:
            times = [self.table.seconds(option.encoding, work) for work in works]
            if None not in times:
                timed.append(replace(option, seconds=sum(t for t in times if t is not None)))
        return timed

    @property
    def allowed(self) -> float | None:
        """Seconds that matrices may take by the floor; None: there is none."""
        return None if self.floor is None else 1 / self.floor - self.table.token * 1e-6

    def tokens_per_second(self, seconds: float) -> float:
        """Of a plan whose matrices take so many seconds."""
        return 1 / (self.table.token * 1e-6 + seconds)

    def predict(self, chosen: Mapping[str, str]) -> PredictedSpeed:
        """Speed of a file.

        Args:
            chosen: Tensor → encoding.
        """
        return self.table.predict((chosen[n], w) for n, w in self.work.items() if n in chosen)

    def share(
        self, choices: Sequence[Choice], nbytes: int, seconds: float | None
    ) -> dict[str, Option]:
        """The options of least cost within so many bytes and seconds, by choice.

        Raises:
            PlanError: No plan within the bytes is so fast; it names the fastest.
        """
        if seconds is None:
            return allocate(choices, nbytes)
        try:
            return allocate_timed(choices, nbytes, seconds)
        except PlanError:
            self.check(choices, nbytes, seconds)
            raise

    def check(self, choices: Sequence[Choice], nbytes: int, seconds: float | None = None) -> None:
        """Raise PlanError with the fastest plan where none within `nbytes` keeps the time.

        Args:
            choices: With their times.
            nbytes: Of the matrices.
            seconds: Of them; None: those of the floor.
        """
        seconds = self.allowed if seconds is None else seconds
        if seconds is None:
            return
        least = total_seconds(list(fastest(choices, nbytes).values()))
        if least > seconds * _LEAST:
            reached = self.tokens_per_second(least)
            asked = self.tokens_per_second(max(seconds, 0.0)) if self.floor is None else self.floor
            raise PlanError(
                f"no plan of these bytes generates {asked:.4g} tokens/s on {self.table.machine}: "
                f"the fastest is predicted to generate {reached:.4g}",
                expected=f"--min-speed {reached:.4g} at most",
                todo="allow other bytes, exclude fewer encodings, or ask for less speed",
            )

    def ceiling(
        self, choices: Sequence[Choice], nbytes: int, rivals: Sequence[float]
    ) -> float | None:
        """Seconds that the matrices may take by floor and objective; None: as many as they like.

        Args:
            choices: With times and costs.
            nbytes: Of the matrices.
            rivals: What plain presets within the budget are predicted to cost.
        """
        if self.objective == "quality":
            return self.allowed
        plain = allocate(choices, nbytes)
        usual = total_seconds(list(plain.values()))
        nats = max(min(rivals, default=0.0), sum(o.cost for o in plain.values()))
        soon = total_seconds(list(_soonest(choices, nbytes, nats * _LEAST).values()))
        aim = soon if self.objective == "speed" else (soon + usual) / 2
        aim *= _LEAST
        return aim if self.allowed is None else min(aim, self.allowed)

    def trade_off(self, choices: Sequence[Choice], nbytes: int) -> list[dict[str, float]]:
        """The least predicted divergence at every speed within the bytes, the slowest first."""
        plain = allocate(choices, nbytes)
        usual = total_seconds(list(plain.values()))
        least = total_seconds(list(fastest(choices, nbytes).values()))
        points: list[dict[str, float]] = []
        for step in range(POINTS):
            limit = (usual + (least - usual) * step / (POINTS - 1)) * _LEAST
            plan = list(allocate_timed(choices, nbytes, limit, widths=(64,)).values())
            points.append(
                {
                    "tokens_per_second": self.tokens_per_second(total_seconds(plan)),
                    "kl": sum(o.cost for o in plan),
                    "bytes": sum(o.nbytes for o in plan),
                }
            )
        return points

    def to_dict(self) -> dict[str, Any]:
        """What results say of it."""
        return {
            "objective": self.objective,
            "floor": self.floor,
            "machine": self.table.machine,
            "basis": self.table.basis,
            "threads": self.table.threads,
            "error": self.table.error,
        }


def _soonest(choices: Sequence[Choice], nbytes: int, nats: float) -> dict[str, Option]:
    """The fastest plan within bytes and predicted divergence."""
    swapped = [
        replace(c, options=[replace(o, cost=o.seconds, seconds=o.cost) for o in c.options])
        for c in choices
    ]
    plan = allocate_timed(swapped, nbytes, nats)
    return {name: replace(o, cost=o.seconds, seconds=o.cost) for name, o in plan.items()}
