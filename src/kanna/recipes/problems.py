"""What is wrong with a recipe, each with the line it is at."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from kanna.errors import UsageError

_SHOWN = 8
"""Further problems that a message repeats."""


class RecipeError(UsageError):
    """A recipe that cannot be run; exit code 2.

    Args:
        problems: Everything that is wrong with it, at least one.
    """

    def __init__(self, problems: list[RecipeProblem]) -> None:
        self.problems = problems
        first, others = problems[0], problems[1:]
        shown = "".join(f"; {other}" for other in others[:_SHOWN])
        more = f"; and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
        super().__init__(f"{first}{shown}{more}", expected=first.expected, todo=first.todo)


@dataclass(frozen=True, slots=True)
class RecipeLine:
    """A line of a file, shown from the current folder where it is in it."""

    file: Path
    line: int

    def __str__(self) -> str:
        here = Path.cwd()
        inside = self.file.is_relative_to(here)
        return f"{self.file.relative_to(here) if inside else self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class RecipeProblem:
    """One thing that is wrong.

    Attributes:
        place: Where it is.
        text: What it is.
        expected: What would be right.
        todo: What the user can do.
    """

    place: RecipeLine
    text: str
    expected: str = ""
    todo: str = ""

    def __str__(self) -> str:
        return f"{self.place}: {self.text}"


@dataclass(slots=True)
class Problems:
    """Problems as they are met, so that a user sees all of them at once."""

    listed: list[RecipeProblem] = field(default_factory=list[RecipeProblem])

    def add(self, place: RecipeLine, text: str, *, expected: str = "", todo: str = "") -> None:
        """Note a problem; the same one of many instances of a step counts once."""
        problem = RecipeProblem(place, text, expected, todo)
        if problem not in self.listed:
            self.listed.append(problem)

    def raise_any(self) -> None:
        """Raise RecipeError unless there are none."""
        files = list(dict.fromkeys(problem.place.file for problem in self.listed))
        if files:
            order = sorted(self.listed, key=lambda p: (files.index(p.place.file), p.place.line))
            raise RecipeError(order)
