"""The verb `recipe`: recipes from earlier runs and from Olive, and their JSON Schema."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kanna._util.atomic import write_text
from kanna._util.results import Result
from kanna.errors import OutputError, UsageError
from kanna.escaping import json_text
from kanna.recipes import olive, reproduction
from kanna.recipes.schema import schema

ACTIONS = ("schema", "from", "convert")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class WrittenRecipe(Result):
    """A recipe, or the schema of recipes.

    Attributes:
        text: As the file has it.
        path: The file that was written; None: it was only made.
        left_out: What the recipe does not do that its origin does.
    """

    text: str
    path: str | None = None
    left_out: list[str] = field(default_factory=list[str])

    def headline(self) -> str:
        """Where it is."""
        return self.path or f"{len(self.text.splitlines())} lines"

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON has it."""
        return asdict(self)


def recipe(
    action: str, path: str | Path | None = None, out: str | Path | None = None
) -> WrittenRecipe:
    """Write the recipe that reproduces a run or does what an Olive config does, or the schema.

    Args:
        action: `schema`: the JSON Schema of recipes; `from`: the recipe of the run or the file
            at `path`; `convert`: that of the Olive config at `path`.
        path: A folder or a file; not for `schema`.
        out: The file to write; None: only return its text.

    Raises:
        UsageError: There is no such action, or a path is missing or too many.
        SourceError: Nothing at the path says how it was made, or it is no Olive config.
        OutputError: The file is there already.
    """
    if action not in ACTIONS:
        raise UsageError(f"no action {action!r}", expected=", ".join(ACTIONS))
    if (path is None) is not (action == "schema"):
        given = "a path was given" if path is not None else "no path was given"
        expected = "kanna recipe schema" if action == "schema" else f"kanna recipe {action} PATH"
        raise UsageError(f"{given} to {action}", expected=expected)
    left_out: list[str] = []
    if path is None:
        text = json_text(schema()) + "\n"
    elif action == "from":
        text, left_out = reproduction.recipe_from(Path(path))
    else:
        text, left_out = olive.recipe_from(Path(path))
    if out is None:
        return WrittenRecipe(text=text, left_out=left_out)
    target = Path(out)
    if target.exists():
        raise OutputError(f"{target} exists", todo="name another file with -o")
    target.parent.mkdir(parents=True, exist_ok=True)
    write_text(target, text)
    return WrittenRecipe(text=text, path=str(target), left_out=left_out)
