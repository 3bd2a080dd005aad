"""The plan with the least predicted cost whose file keeps a budget to the byte."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kanna import encodings
from kanna.convert import ConvertResult, convert
from kanna.errors import PlanError, UsageError
from kanna.model import Model
from kanna.optimize.measure import Measured
from kanna.plan import Plan, RuleModel
from kanna.plan.allocate import Choice, allocate, largest, smallest
from kanna.sources import Source

NAME = "optimized"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the user wants of some tensors. keep: patterns left as they are; exclude: encodings not to be used;
    rules: pattern → the encoding it must get."""

    keep: Sequence[str] = ()
    exclude: Sequence[str] = ()
    rules: Mapping[str, str] = field(default_factory=dict[str, str])

    def check(self, model: Model) -> None:
        """UsageError for a pattern that names nothing, UnsupportedError for an unknown encoding."""
        for name in [*self.exclude, *self.rules.values()]:
            encodings.get(name)
        for pattern in [*self.keep, *self.rules]:
            try:
                found = any(re.search(pattern, name) for name in model.tensors)
            except re.error as error:
                raise UsageError(f"{pattern!r} is not a regular expression: {error}") from None
            if not found:
                raise UsageError(f"the pattern {pattern!r} names no tensor", todo="`kanna inspect SRC --tensors`")

    def allow(self, model: Model) -> Callable[[str, str], bool]:
        banned = {encodings.get(e).name for e in self.exclude}

        def allowed(tensor: str, encoding: str) -> bool:
            for pattern, wanted in self.rules.items():
                if re.search(pattern, tensor):
                    return encoding == encodings.get(wanted).name
            if any(re.search(p, tensor) for p in self.keep):
                return encoding == "f16"
            return encoding not in banned

        return allowed


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A plan, the file it gives, and what it should cost in nats of KL divergence."""

    plan: Plan
    file_bytes: int
    predicted: float


def search(
    source: Source,
    model: Model,
    measured: Measured,
    statistics: Path,
    budget: int,
    *,
    wishes: Wishes,
    scale: Mapping[str, float] | None = None,
) -> Found:
    """The best plan within `budget` bytes of file. Raises PlanError with the range that is feasible."""
    choices = measured.choices(model, wishes.allow(model), dict(scale or {}))
    for choice in choices:
        if not choice.options:
            raise UsageError(f"no encoding is left for {choice.name}", todo="exclude fewer encodings")

    def describe(plan: Plan) -> ConvertResult:
        return convert(source, plan=plan, statistics=statistics, dry_run=True)

    # What is not shared out: header, metadata, norms. The shares of one plan show how much it is.
    trial = plan_of(choices, {c.name: min(c.options, key=lambda o: o.nbytes).encoding for c in choices})
    least = describe(trial).file_bytes
    fixed = least - smallest(choices)
    if budget < least:
        most = fixed + largest(choices)
        raise PlanError(
            f"a budget of {budget:,} bytes is below the smallest possible file",
            expected=f"{least:,} to {most:,} bytes",
            todo="allow more bytes, or exclude fewer encodings",
        )
    room = budget - fixed
    while True:
        taken = allocate(choices, room)
        plan = plan_of(choices, {name: option.encoding for name, option in taken.items()})
        size = describe(plan).file_bytes
        if size <= budget:
            return Found(plan=plan, file_bytes=size, predicted=sum(o.cost for o in taken.values()))
        room -= size - budget  # the metadata says more of this plan than of the trial


def plan_of(choices: Sequence[Choice], encodings_: Mapping[str, str]) -> Plan:
    """One rule per tensor."""
    rules = [
        RuleModel(pattern=f"^{re.escape(c.name)}$", encoding=encodings_[c.name], method="gptq") for c in choices
    ]
    return Plan(name=NAME, preset=None, encoding="f16", rules=rules)
