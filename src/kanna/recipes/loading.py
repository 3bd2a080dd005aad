"""A recipe with what it includes, its variables set: read, and not yet looked into."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from kanna._util.nearest import nearest
from kanna.errors import UsageError
from kanna.recipes import document as documents
from kanna.recipes.document import Value, YamlDocument
from kanna.recipes.problems import Problems, RecipeLine
from kanna.recipes.text import SearchText, StepText, check
from kanna.recipes.values import NameReference, Option, RootedText, fill, references, rooted

MOST_FILES = 100


@dataclass(frozen=True, slots=True)
class LoadedStep:
    """A step, and the file that it is in."""

    name: str
    text: StepText
    document: YamlDocument

    def place(self, *keys: str | int) -> RecipeLine:
        """The line of something in it."""
        return self.document.place("steps", self.name, *keys)

    @property
    def folder(self) -> Path:
        """The folder of its file."""
        return self.document.path.parent


@dataclass(slots=True, kw_only=True)
class LoadedRecipe:
    """A recipe, all its files together.

    Attributes:
        path: The file that was named.
        documents: Every file of it, that one last.
        search: The search of the file that was named, if it has one.
        changed: Variables that were set from outside.
    """

    path: Path
    name: str = ""
    about: str = ""
    documents: list[YamlDocument] = field(default_factory=list[YamlDocument])
    variables: dict[str, Value] = field(default_factory=dict[str, Value])
    variable_places: dict[str, RecipeLine] = field(default_factory=dict[str, RecipeLine])
    steps: dict[str, LoadedStep] = field(default_factory=dict[str, LoadedStep])
    outputs: dict[str, tuple[str, RecipeLine]] = field(
        default_factory=dict[str, "tuple[str, RecipeLine]"]
    )
    search: SearchText | None = None
    changed: dict[str, Value] = field(default_factory=dict[str, Value])


def load(path: Path, problems: Problems, changes: Mapping[str, str] | None = None) -> LoadedRecipe:
    """Read a recipe and everything it includes.

    Args:
        path: The file.
        problems: Where to note what is wrong.
        changes: Variables to set, each as it would stand in the file.

    Raises:
        RecipeError: A file is no YAML.
        SourceError: A file cannot be read.
        UsageError: A variable is set that there is not.
    """
    recipe = LoadedRecipe(path=path.absolute())
    _read(recipe.path, recipe, problems, ())
    recipe.name = recipe.name or path.stem
    for name, text in (changes or {}).items():
        if name not in recipe.variables:
            raise UsageError(
                f"{path} has no variable {name}{nearest(name, recipe.variables)}",
                expected=", ".join(recipe.variables) or "variables in the recipe",
            )
        value = documents.parse(text, Path(f"--set {name}")).value
        recipe.changed[name] = recipe.variables[name] = rooted(value, Path.cwd())
    _fill_variables(recipe, problems)
    if not recipe.steps and not problems.listed:
        problems.add(RecipeLine(recipe.path, 1), "the recipe has no steps", expected="steps:")
    return recipe


def _fill_variables(recipe: LoadedRecipe, problems: Problems) -> None:
    """Replace variables that variables refer to."""
    sorter = TopologicalSorter(
        {name: [one.name for one in references(v)] for name, v in recipe.variables.items()}
    )
    try:
        order = list(sorter.static_order())
    except CycleError as error:
        circle: list[str] = error.args[1]
        place = recipe.variable_places[circle[0]]
        problems.add(place, f"variables refer to each other: {' → '.join(reversed(circle))}")
        return
    for name in order:
        value = recipe.variables.get(name)
        for one in references(value):
            if one.name not in recipe.variables or one.output or one.every:
                hint = nearest(one.name, recipe.variables)
                shown = one.name or one.written
                place = recipe.variable_places[name]
                problems.add(place, f"{name}: there is no variable {shown}{hint}")
                break
        else:
            if name in recipe.variables:
                recipe.variables[name] = _filled(value, recipe, name, problems)


def _filled(value: Value, recipe: LoadedRecipe, name: str, problems: Problems) -> Value:
    def lookup(one: NameReference) -> Option:
        return recipe.variables[one.name]  # pyright: ignore[reportReturnType]

    try:
        return fill(value, lookup)  # pyright: ignore[reportReturnType]
    except ValueError as error:
        problems.add(recipe.variable_places[name], f"{name}: {error}")
        return value


def _read(path: Path, recipe: LoadedRecipe, problems: Problems, above: tuple[Path, ...]) -> None:
    document = documents.read(path)
    text = check(document, problems)
    if text is None:
        return
    for i, name in enumerate(text.include):
        _include(name, document, i, recipe, problems, (*above, path))
    if len(recipe.documents) >= MOST_FILES:
        problems.add(document.place("include"), f"more than {MOST_FILES} files are included")
        return
    recipe.documents.append(document)
    if not above:
        recipe.name, recipe.about, recipe.search = text.name, text.about, text.search
    for name, value in text.variables.items():
        # A recipe may give what it includes another value.
        recipe.variables[name] = rooted(_copy(value), path.parent)
        recipe.variable_places[name] = document.place("variables", name)
    for name, step in text.steps.items():
        if name in recipe.steps:
            first = recipe.steps[name].place()
            problems.add(document.place("steps", name), f"the step {name} is in {first}, too")
        recipe.steps[name] = LoadedStep(name, step, document)
    for name, output in text.outputs.items():
        recipe.outputs[name] = (output, document.place("outputs", name))


def _include(
    name: str,
    document: YamlDocument,
    i: int,
    recipe: LoadedRecipe,
    problems: Problems,
    above: tuple[Path, ...],
) -> None:
    path, place = (document.path.parent / name).absolute(), document.place("include", i)
    known = {other.path.resolve() for other in recipe.documents}
    if path.resolve() in {one.resolve() for one in above}:
        names = " → ".join(one.name for one in (*above, path))
        problems.add(place, f"files include each other: {names}")
    elif not path.is_file():
        problems.add(place, f"there is no file {path}", todo="paths are relative to this file")
    elif path.resolve() not in known:
        _read(path, recipe, problems, above)


def _copy(value: str | int | float | list[str | int | float]) -> Value:
    return [*value] if isinstance(value, list) else value


def folder_of(value: str, step: LoadedStep) -> Path:
    """The folder that a path in a value of a step is relative to."""
    return value.folder if isinstance(value, RootedText) else step.folder
