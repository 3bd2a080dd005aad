"""Recipes: verbs in a file, run in order, each only when something it depends on has changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from kanna import __version__
from kanna._util.arguments import several
from kanna._util.atomic import write_text
from kanna._util.bars import shown
from kanna._util.locks import holding
from kanna._util.progress import Progress
from kanna.errors import OutputError, UsageError
from kanna.recipes import execution, keys, prediction, records, validation
from kanna.recipes.authoring import recipe
from kanna.recipes.document import Value
from kanna.recipes.execution import RecipeRun
from kanna.recipes.graph import RecipeGraph, build
from kanna.recipes.inputs import RecipeInputs, find
from kanna.recipes.loading import load
from kanna.recipes.problems import Problems, RecipeError
from kanna.recipes.records import Manifest, Plain
from kanna.recipes.result import RunResult

__all__ = ["RecipeError", "RunResult", "recipe", "run"]

REPORT = "report.html"


def run(
    recipe: str | Path,
    out: str | Path | None = None,
    *,
    set: Mapping[str, object] | str | Sequence[str] | None = None,
    dry_run: bool = False,
    offline: bool = False,
    progress: Progress | None = None,
    remark: Callable[[str], None] | None = None,
) -> RunResult:
    """Run the steps of a recipe, those alone whose options or inputs have changed.

    The whole recipe is checked before anything runs. A step that fails does not end the others; a
    run that was killed goes on where it was when it is started again.

    Args:
        recipe: The YAML file.
        out: The folder of the run; None: the recipe's name and `-run`, in the current folder.
        set: Variables of the recipe, as a mapping or as texts such as `preset=Q4_K_M`.
        dry_run: Only say what would run, and what it would make.
        offline: Use only what is on this machine already.
        progress: Where progress is reported; None: a bar in terminals and notebooks.
        remark: Called with a sentence about each step.

    Raises:
        RecipeError: Something is wrong with the recipe; it says where.
        OutputError: The folder cannot be used.
    """
    path, bar, problems = Path(recipe), shown(progress), Problems()
    loaded = load(path, problems, _changes(set))
    problems.raise_any()
    graph = build(loaded, problems)
    problems.raise_any()
    folder = Path(out if out is not None else f"{path.stem}-run").absolute()
    earlier = _earlier(folder)
    inputs = RecipeInputs(earlier.inputs if earlier else (), offline=offline, progress=bar)
    for instance in graph.instances.values():
        find(instance, graph.steps[instance.step], inputs.names, problems)
    problems.raise_any()
    fingerprint = _fingerprint(graph)
    if earlier is None or earlier.validated != fingerprint:
        validation.check(graph, problems)  # loads every verb
        problems.raise_any()
    if dry_run:
        planned = prediction.plan(graph, folder, inputs)
        bar.finish()
        return RunResult(
            name=loaded.name, folder=str(folder), report="", steps=[], planned=planned, dry_run=True
        )
    manifest = Manifest(
        version=__version__,
        recipe=str(loaded.path),
        name=loaded.name,
        about=loaded.about,
        started=execution.now(),
        validated=fingerprint,
        variables={name: _plain(value) for name, value in loaded.variables.items()},
        changed={name: _plain(value) for name, value in loaded.changed.items()},
        recipe_text={str(one.path): one.text for one in loaded.documents},
        environment=execution.environment(),
        files=earlier.files if earlier else [],
    )
    with holding(folder, "run", parents=True):
        folder.mkdir(parents=True, exist_ok=True)
        current = RecipeRun(
            graph=graph,
            folder=folder,
            inputs=inputs,
            manifest=manifest,
            offline=offline,
            progress=bar,
            remark=remark or _nothing,
        )
        try:
            current.execute()
        finally:
            bar.finish()
            _report(manifest, folder)
    return RunResult.of(manifest, folder, folder / REPORT)


def _report(manifest: Manifest, folder: Path) -> None:
    from kanna.report.recipe_page import recipe_page

    write_text(folder / REPORT, recipe_page(manifest.model_dump()))


def _earlier(folder: Path) -> Manifest | None:
    """The manifest of an earlier run; raises OutputError for a folder that is none of a run."""
    if not folder.exists():
        return None
    if not folder.is_dir():
        raise OutputError(
            f"{folder} is a file", expected="a folder, which is made when it is absent"
        )
    manifest = records.read_manifest(folder)
    if manifest is None and any(folder.iterdir()) and not (folder / records.MANIFEST).exists():
        raise OutputError(
            f"{folder} has files, and is no folder of a run",
            expected="a new folder, or one of an earlier run",
            todo="name another with -o",
        )
    return manifest


def _changes(given: Mapping[str, object] | str | Sequence[str] | None) -> dict[str, str]:
    """Variables to set, by name, as they would stand in a recipe."""
    if isinstance(given, Mapping):
        from kanna.escaping import json_text  # JSON is YAML

        return {
            name: value if isinstance(value, str) else json_text(value)
            for name, value in given.items()
        }
    changes: dict[str, str] = {}
    for text in several(given):
        name, equal, value = text.partition("=")
        if not equal or not name.strip():
            raise UsageError(f"{text!r} sets nothing", expected="NAME=VALUE")
        changes[name.strip()] = value
    return changes


def _fingerprint(graph: RecipeGraph) -> str:
    """Of the graph as it is checked."""
    steps = [(one.id, one.verb, validation.options(one)) for one in graph.instances.values()]
    return keys.digest([__version__, steps])


def _plain(value: Value) -> Plain | list[Plain]:
    if isinstance(value, list):
        return [str(v) if isinstance(v, list | dict) else v for v in value]
    return str(value) if isinstance(value, dict) else value


def _nothing(_: str) -> None:
    pass
