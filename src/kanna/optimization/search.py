"""The plan with the least predicted cost whose file keeps a budget to the byte."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kanna import encodings
from kanna.conversion import convert
from kanna.errors import PlanError, UsageError
from kanna.model import Model, columns
from kanna.optimization.measure import CANDIDATES, Measured, matrices
from kanna.plan import Plan, RuleModel
from kanna.plan.allocate import Choice, Option, allocate, largest, smallest
from kanna.sources import Source

NAME = "optimized"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the user wants of some tensors.

    encoding it must get. kept, names: what `keep` means, and all encodings there are.

    Attributes:
        keep: Patterns left as they are.
        exclude: Encodings not to be used.
        rules: Pattern → the.
    """

    keep: Sequence[str] = ()
    exclude: Sequence[str] = ()
    rules: Mapping[str, str] = field(default_factory=dict[str, str])
    kept: str = "f16"
    names: Sequence[str] = CANDIDATES

    def check(self, model: Model) -> None:
        """UsageError for a pattern that names nothing or an encoding that does not fit what it names, UnsupportedError
        for an unknown encoding."""
        for name in self.exclude:
            encodings.get(name)
        for pattern, wanted in [*((p, self.kept) for p in self.keep), *self.rules.items()]:
            encoding = encodings.get(wanted)
            if encoding.name not in self.names:
                raise UsageError(
                    f"the rule {pattern}={wanted}", expected=f"one of {', '.join(self.names)}"
                )
            try:
                found = [name for name in matrices(model) if re.search(pattern, name)]
            except re.error as error:
                raise UsageError(f"{pattern!r} is not a regular expression: {error}") from None
            if not found:
                raise UsageError(
                    f"the pattern {pattern!r} names no matrix", todo="`kanna inspect SRC --tensors`"
                )
            for name in found:
                if columns(model.tensors[name]) % encoding.block:
                    raise UsageError(
                        f"{wanted} cannot hold {name}, whose rows have {columns(model.tensors[name])} values",
                        expected=f"a multiple of {encoding.block}",
                    )

    def allow(self, model: Model) -> Callable[[str, str], bool]:
        banned = {encodings.get(e).name for e in self.exclude}

        def allowed(tensor: str, encoding: str) -> bool:
            for pattern, wanted in self.rules.items():
                if re.search(pattern, tensor):
                    return encoding == encodings.get(wanted).name
            if any(re.search(p, tensor) for p in self.keep):
                return encoding == self.kept
            return encoding not in banned

        return allowed


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The file a plan gives, what it should cost in nats of KL divergence, and the encoding of every matrix.

    Attributes:
        fixed: Bytes of the file that no plan changes.
    """

    file_bytes: int
    predicted: float
    encodings: dict[str, str] = field(default_factory=dict[str, str])
    fixed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bytes of the smallest and the largest file that make sense, and of what no plan changes."""

    least: int
    most: int
    fixed: int

    @classmethod
    def of(cls, choices: Sequence[Choice], least: int) -> Limits:
        """What follows when the smallest choices make a file of `least` bytes."""
        fixed = least - smallest(choices)
        return cls(least=least, most=fixed + largest(choices), fixed=fixed)

    def check(self, budget: int) -> None:
        """PlanError with the range when not even the smallest file fits."""
        if budget < self.least:
            raise PlanError(
                f"a budget of {budget:,} bytes is below the smallest possible file",
                expected=f"{self.least:,} to {self.most:,} bytes",
                todo="allow more bytes, or exclude fewer encodings",
            )


def limits(source: Source, choices: Sequence[Choice]) -> Limits:
    """What budgets are feasible, but for some bytes of metadata that tell how a file was made."""
    for choice in choices:
        if not choice.options:
            raise UsageError(
                f"no encoding is left for {choice.name}", todo="exclude fewer encodings"
            )
    # Header, metadata and norms are not shared out: the file of one plan shows how much they are.
    return Limits.of(
        choices, convert(source, plan=plan_of(choices, least_of(choices)), dry_run=True).file_bytes
    )


def search(
    source: Source,
    model: Model,
    measured: Measured,
    statistics: Path,
    budget: int,
    path: Path,
    *,
    wishes: Wishes,
    scale: Mapping[str, float] | None = None,
) -> Found:
    """Write the best plan within `budget` bytes of file to `path`.

    Raises PlanError with the range that is feasible.
    """
    return fill(
        source,
        measured.choices(model, wishes.allow(model), dict(scale or {})),
        statistics,
        budget,
        path,
    )


def fill(
    source: Source, choices: Sequence[Choice], statistics: Path, budget: int, path: Path
) -> Found:
    """As `search`, of choices that are at hand."""

    def size(plan: Path) -> int:
        # Of the plan as it will be converted: its name, too, is in the metadata.
        return convert(source, plan=plan, statistics=statistics, dry_run=True).file_bytes

    return narrow(choices, limits(source, choices), budget, path, size=size)


def narrow(
    choices: Sequence[Choice],
    feasible: Limits,
    budget: int,
    path: Path,
    *,
    size: Callable[[Path], int],
    share: Callable[[Sequence[Choice], int], dict[str, Option]] = allocate,
    plan: Callable[[Mapping[str, str]], Plan] | None = None,
) -> Found:
    """Write to `path` the best plan of at most `budget` bytes.

    Room is taken away until what is written keeps to them.

    None: `plan_of`

    Args:
        size: Bytes of the artefact of a plan.
        share: The choices within some bytes.
        plan: Of encodings,.
    """
    feasible.check(budget)
    room, floor = budget - feasible.fixed, smallest(choices)
    while True:
        taken = share(choices, room)
        encodings_ = {name: option.encoding for name, option in taken.items()}
        (plan(encodings_) if plan else plan_of(choices, encodings_)).save(path)
        found = size(path)
        if found <= budget:
            predicted = sum(option.cost for option in taken.values())
            return Found(
                file_bytes=found, predicted=predicted, encodings=encodings_, fixed=feasible.fixed
            )
        if room == floor:
            Limits(least=found, most=feasible.most, fixed=feasible.fixed).check(budget)
        room = max(floor, room - (found - budget))


def least_of(choices: Sequence[Choice]) -> dict[str, str]:
    """The encoding of fewest bytes for each."""
    return {c.name: min(c.options, key=lambda o: o.nbytes).encoding for c in choices}


def plan_of(choices: Sequence[Choice], encodings_: Mapping[str, str], rest: str = "f16") -> Plan:
    """One rule per tensor. rest: of what has no rule."""
    rules = [
        RuleModel(pattern=f"^{re.escape(c.name)}$", encoding=encodings_[c.name], method="gptq")
        for c in choices
    ]
    return Plan(name=NAME, preset=None, encoding=rest, rules=rules)
