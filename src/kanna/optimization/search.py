"""The plan with the least predicted cost whose artefact keeps a budget to the byte."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from kanna.errors import PlanError, UsageError
from kanna.optimization.context import Workspace
from kanna.plan import Plan, RuleModel
from kanna.plan.allocate import Choice, Option, largest, smallest

NAME = "optimized"
"""Of the searched plan, and of its artefact in a report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedArtefact:
    """What a plan makes.

    Attributes:
        file_bytes: What the budget counts, to the byte.
        predicted: Nats of KL divergence that it should cost.
        encodings: Of every matrix.
        fixed: Bytes that no plan changes.
    """

    file_bytes: int
    predicted: float
    encodings: dict[str, str] = field(default_factory=dict[str, str])
    fixed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeRange:
    """Bytes of the smallest and the largest artefact that make sense, and of what plans share."""

    least: int
    most: int
    fixed: int

    @classmethod
    def of(cls, choices: Sequence[Choice], least: int) -> SizeRange:
        """The range when the smallest choices make an artefact of `least` bytes."""
        fixed = least - smallest(choices)
        return cls(least=least, most=fixed + largest(choices), fixed=fixed)

    def check(self, budget: int) -> None:
        """Raise PlanError with the range when not even the smallest artefact fits."""
        if budget < self.least:
            raise PlanError(
                f"a budget of {budget:,} bytes is below the smallest possible file",
                expected=f"{self.least:,} to {self.most:,} bytes",
                todo="allow more bytes, or exclude fewer encodings",
            )


class Planner(Protocol):
    """What a search must know of a format, for one source; every adapter is one."""

    workspace: Workspace

    def plan(self, choices: Sequence[Choice], encodings: Mapping[str, str]) -> Plan:
        """The plan that gives each choice its encoding."""
        ...

    def share(self, choices: Sequence[Choice], nbytes: int) -> dict[str, Option]:
        """The options of least cost within so many bytes, by choice."""
        ...

    def size(self, plan: Plan) -> int:
        """Bytes of the artefact of a plan; the name of the file it was saved in may count."""
        ...


def size_range(planner: Planner, choices: Sequence[Choice]) -> SizeRange:
    """The budgets that are feasible.

    Raises:
        UsageError: A choice has no option.
    """
    for choice in choices:
        if not choice.options:
            raise UsageError(
                f"no encoding is left for {choice.name}", todo="exclude fewer encodings"
            )
    # Header, metadata and norms are not shared out: the artefact of one plan shows their size.
    return SizeRange.of(choices, planner.size(planner.plan(choices, least_encodings(choices))))


def search(planner: Planner, choices: Sequence[Choice], budget: int, path: Path) -> PlannedArtefact:
    """Write to `path` the best plan whose artefact has at most `budget` bytes.

    Bytes are taken away from the matrices until what would be written keeps to the budget.

    Raises:
        PlanError: Not even the smallest artefact fits; it names the feasible range.
    """
    feasible = size_range(planner, choices)
    feasible.check(budget)
    available, floor = budget - feasible.fixed, smallest(choices)
    while True:
        options = planner.share(choices, available)
        encodings = {name: option.encoding for name, option in options.items()}
        plan = planner.plan(choices, encodings)
        plan.save(path)
        size = planner.size(plan)
        if size <= budget:
            return PlannedArtefact(
                file_bytes=size,
                predicted=sum(option.cost for option in options.values()),
                encodings=encodings,
                fixed=feasible.fixed,
            )
        if available == floor:
            SizeRange(least=size, most=feasible.most, fixed=feasible.fixed).check(budget)
        available = max(floor, available - (size - budget))


def least_encodings(choices: Sequence[Choice]) -> dict[str, str]:
    """The encoding of fewest bytes for each choice."""
    return {c.name: min(c.options, key=lambda o: o.nbytes).encoding for c in choices}


def plan_of(choices: Sequence[Choice], encodings: Mapping[str, str], default: str = "f16") -> Plan:
    """One rule per choice; tensors without a rule get the encoding `default`."""
    rules = [
        RuleModel(pattern=f"^{re.escape(c.name)}$", encoding=encodings[c.name], method="gptq")
        for c in choices
    ]
    return Plan(name=NAME, preset=None, encoding=default, rules=rules)
