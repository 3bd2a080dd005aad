"""What a recipe may hold, as pydantic has it: a file by itself, before names are looked up."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from kanna._util.nearest import nearest
from kanna.recipes.document import YamlDocument
from kanna.recipes.problems import Problems
from kanna.recipes.values import NAME

Scalar: TypeAlias = str | int | float | bool
Name: TypeAlias = Annotated[str, Field(pattern=rf"^{NAME}$")]


class _Text(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, populate_by_name=True)


class StepText(_Text):
    """A step: a verb and its options."""

    verb: str = Field(description="A verb of kanna, as `kanna components verbs` lists them.")
    about: str = Field("", description="What the step is for; shown in the report.")
    options: dict[str, JsonValue] = Field(
        default_factory=dict[str, JsonValue],
        alias="with",
        description="Options of the verb by their names in Python.",
    )
    matrix: dict[Name, list[Scalar] | str] = Field(
        default_factory=dict[str, "list[Scalar] | str"],
        alias="for",
        description="Axes and their values: the step runs once for every combination.",
    )
    when: str | None = Field(
        None, description="A condition; where it is false, the step is skipped."
    )
    stop_when: str | None = Field(
        None,
        description="A condition on what was measured; where it is true, the rest of the matrix "
        "is not run, or of the recipe where the step has no matrix.",
    )


class RangeText(_Text):
    """Values between two limits, both included."""

    low: int | float
    high: int | float
    step: int | float | None = Field(None, gt=0, description="Between two values.")
    log: bool = Field(False, description="Whether small values are tried as finely as large ones.")


class SearchText(_Text):
    """A search: variables that are tried, and what is wanted."""

    trials: int = Field(20, ge=1, le=10_000, description="Combinations to try.")
    seed: int = Field(0, ge=0, le=2**31 - 1, description="The same seed tries the same.")
    space: dict[Name, list[Scalar] | RangeText] = Field(
        description="Values of variables: a list to choose from, or low and high."
    )
    goals: dict[str, Literal["minimize", "maximize"]] = Field(
        description="Figures of steps, such as quality.kl_mean: minimize."
    )
    constraints: list[str] = Field(
        default_factory=list[str], description="Conditions that a result must meet."
    )


class RecipeText(_Text):
    """A recipe: steps by name, and what they share."""

    name: str = Field("", description="Shown in the report; the file's name where it is absent.")
    about: str = Field("", description="What the recipe is for.")
    include: list[str] = Field(
        default_factory=list[str], description="Recipes whose variables and steps are taken in."
    )
    variables: dict[Name, Scalar | list[Scalar]] = Field(
        default_factory=dict[str, "Scalar | list[Scalar]"],
        description="Values by name, used as ${name}; `--set name=value` changes one.",
    )
    steps: dict[Name, StepText] = Field(
        default_factory=dict[str, StepText], description="Steps by name, in any order."
    )
    search: SearchText | None = Field(
        None, description="Variables to try, and the figures that are wanted."
    )
    outputs: dict[Name, str] = Field(
        default_factory=dict[str, str],
        description="What the run is for, by name: ${step} or ${step.output}.",
    )


def check(document: YamlDocument, problems: Problems) -> RecipeText | None:
    """What a file holds; None where it is no recipe, which is noted among the problems."""
    value = document.value
    if not isinstance(value, dict):
        problems.add(document.place(), "the file is no recipe", expected="steps: and more keys")
        return None
    try:
        return RecipeText.model_validate(value)
    except ValidationError as error:
        note(error, document, (), RecipeText, problems)
        return None


def note(
    error: ValidationError,
    document: YamlDocument,
    above: tuple[str | int, ...],
    model: type[BaseModel],
    problems: Problems,
) -> None:
    """Put what pydantic refused among the problems, with lines and the nearest names.

    Args:
        error: What it raised.
        document: The file.
        above: Keys of what was checked.
        model: What it was checked as.
        problems: Where they go.
    """
    for one in error.errors(include_url=False, include_context=False):
        keys = tuple(key for key in one["loc"] if _is_key(key, document, above))
        place = document.place(*above, *one["loc"])
        name = str(one["loc"][-1]) if one["loc"] else ""
        label = ".".join(map(str, (*above, *keys)))
        if one["type"] == "extra_forbidden":
            known = _fields(StepText if keys[:1] == ("steps",) and len(keys) == 3 else model)
            problems.add(
                place, f"{label}: unknown name {name}{nearest(name, known)}", expected=_some(known)
            )
        elif one["type"] == "missing":
            problems.add(place, f"{label or 'the recipe'}: {name} is missing", expected=name)
        else:
            shown = repr(one["input"])[:60]
            problems.add(place, f"{label}: {shown}: {one['msg'].lower()}")


def _is_key(key: str | int, document: YamlDocument, above: tuple[str | int, ...]) -> bool:
    """Whether pydantic names a key of the file, and not a member of a union."""
    return isinstance(key, int) or any(key in keys for keys in document.places)


def _fields(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _some(names: list[str]) -> str:
    return ", ".join(names)
