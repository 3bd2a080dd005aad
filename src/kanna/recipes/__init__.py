"""Recipes: verbs in a file, run in order, each only when something it depends on has changed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from kanna import __version__, executors
from kanna._util.arguments import several
from kanna._util.atomic import write_text
from kanna._util.bars import shown
from kanna._util.locks import holding
from kanna._util.progress import Progress
from kanna.errors import OutputError, UsageError
from kanna.recipes import (
    elsewhere,
    execution,
    keys,
    made_steps,
    prediction,
    records,
    search,
    tracked,
    validation,
)
from kanna.recipes.authoring import recipe
from kanna.recipes.document import Value
from kanna.recipes.elsewhere import Elsewhere
from kanna.recipes.execution import RecipeRun
from kanna.recipes.graph import AxisValue, RecipeGraph, build
from kanna.recipes.inputs import RecipeInputs, find
from kanna.recipes.loading import LoadedRecipe, load
from kanna.recipes.made_steps import MadeSteps
from kanna.recipes.problems import Problems, RecipeError
from kanna.recipes.records import DONE, KEPT, Manifest, Plain
from kanna.recipes.result import RunResult
from kanna.recipes.step_pools import at_work
from kanna.tracking import TrackRequest

__all__ = ["RecipeError", "RunResult", "recipe", "run"]

REPORT = "report.html"


def run(
    recipe: str | Path,
    out: str | Path | None = None,
    *,
    set: Mapping[str, object] | str | Sequence[str] | None = None,
    dry_run: bool = False,
    offline: bool = False,
    track: str | None = None,
    experiment: str | None = None,
    track_weights: bool = False,
    on: str = executors.LOCAL,
    on_set: Mapping[str, object] | str | Sequence[str] | None = None,
    on_config: str | Path | None = None,
    jobs: int | None = None,
    threads: int | None = None,
    only: str = "",
    made: Sequence[str | Path] | str | Path = (),
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
        track: A tracker, such as http://127.0.0.1:5000, sqlite:///runs.db or trackio, that is told
            of the run and, below it, of every step (extras `mlflow`, `trackio`); None: nobody is.
        experiment: Where the run belongs there; None: kanna.
        track_weights: Send the weights, too, not only their hash and path.
        on: Where it runs: an executor, as `kanna components executors` lists them. Those that
            others start write their files into `out`, the current folder by default.
        on_set: Options of the executor, as a mapping or as texts such as `cpus=8`.
        on_config: A YAML file of such options.
        jobs: Steps that run at a time at most, as memory allows: the executor's option `parallel`;
            1: one after another.
        threads: Threads that running steps share here: the executor's option `threads`.
        only: The one step to run, by the name of its folder; what it needs is in `made`.
        made: Folders of other runs of the recipe, on any machine: the steps in them are taken as
            they are, and what they read is not asked for.
        progress: Where progress is reported; None: a bar in terminals and notebooks.
        remark: Called with a sentence about each step.

    Raises:
        RecipeError: Something is wrong with the recipe; it says where.
        OutputError: The folder cannot be used.
        SourceError: The tracking server, the cluster or the workspace does not answer.
        MissingError: The executor needs an extra that is not here.
    """
    path, bar, problems = Path(recipe), shown(progress), Problems()
    given, tell = _options(on_set, jobs, threads), remark or _nothing
    place = Elsewhere(name=on, config=on_config, given=given, changes=_changes(set))
    executor, settings = place.executor, place.options()
    server = TrackRequest(server=track, experiment=experiment, weights=track_weights)
    loaded = load(path, problems, place.changes)
    problems.raise_any()
    parts = made_steps.read(only, [made] if isinstance(made, str | Path) else made)
    if parts.partial and (loaded.search or executor.files is not None):
        raise UsageError("--only and --made are for steps that run here, and for no search")
    if executor.files is not None:
        graphs = _graphs(loaded, parts, RecipeInputs((), offline=offline, progress=bar))
        _validate(loaded, graphs, problems)
        bar.finish()
        return elsewhere.perform(place, loaded, graphs, out, tell, dry_run=dry_run)
    folder = Path(out if out is not None else f"{path.stem}-run").absolute()
    earlier = _earlier(folder)
    inputs = RecipeInputs(earlier.inputs if earlier else (), offline=offline, progress=bar)
    graphs = _graphs(loaded, parts, inputs)
    fingerprint = keys.digest([__version__, [_steps(graph) for graph in graphs]])
    if earlier is None or earlier.validated != fingerprint or loaded.search:
        _validate(loaded, graphs, problems)
    if dry_run:
        planned = prediction.plan(graphs[0], folder, inputs)
        bar.finish()
        return RunResult(
            name=loaded.name, folder=str(folder), report="", steps=[], planned=planned, dry_run=True
        )
    manifest = _manifest(loaded, fingerprint, earlier, folder)
    with (
        at_work(executor, settings, bar, tell) as pool,
        holding(folder, "run", parents=True),
        tracked.follow(server, manifest, folder, remark) as run_tracked,
    ):
        folder.mkdir(parents=True, exist_ok=True)
        first = RecipeRun(
            graph=graphs[0],
            folder=folder,
            inputs=inputs,
            manifest=manifest,
            offline=offline,
            progress=bar,
            remark=tell,
            tracked=run_tracked,
            pool=pool,
            made=parts,
        )
        try:
            if loaded.search:
                _search(loaded, first, graphs, earlier)
            else:
                first.execute()
        finally:
            bar.finish()
            _report(manifest, folder)
            tracked.note_run(run_tracked, manifest, folder, REPORT)
    return RunResult.of(manifest, folder, folder / REPORT)


def _graphs(loaded: LoadedRecipe, made: MadeSteps, inputs: RecipeInputs) -> list[RecipeGraph]:
    """The graph of a recipe, or those of the corners of its search; raises RecipeError."""
    trials = search.corners(loaded.search) if loaded.search else [None]
    return [_prepared(loaded, made, inputs, trial) for trial in trials]


def _validate(loaded: LoadedRecipe, graphs: list[RecipeGraph], problems: Problems) -> None:
    """Check every option; raises RecipeError."""
    for graph in graphs:
        validation.check(graph, problems)  # loads every verb
    if loaded.search:
        search.check(loaded, graphs[0], problems)
    problems.raise_any()


def _prepared(
    loaded: LoadedRecipe,
    made: MadeSteps,
    inputs: RecipeInputs,
    trial: Mapping[str, AxisValue] | None,
) -> RecipeGraph:
    """The graph of a recipe, or of one trial of its search; raises RecipeError."""
    problems = Problems()
    graph = build(loaded, problems, trial)
    problems.raise_any()
    for instance in made.here(graph):
        find(instance, graph.steps[instance.step], inputs.names, problems)
    problems.raise_any()
    return graph


def _search(
    loaded: LoadedRecipe, first: RecipeRun, graphs: list[RecipeGraph], earlier: Manifest | None
) -> None:
    """Run the trials of a search; see `search.py`."""
    manifest, began = first.manifest, time.perf_counter()
    content: dict[str, str] = {}
    for graph in graphs:
        for instance in graph.instances.values():
            content[instance.id] = keys.step_key(instance, graph, first.inputs, content)
    study = search.Study(loaded, first.folder, keys.digest(content))
    states = {
        one.id: one.model_copy(update={"state": KEPT if one.state == DONE else one.state})
        for one in (earlier.steps if earlier else ())
        if any(one.id in trial.steps for trial in study.records())
    }
    manifest.steps = list(states.values())

    def perform(number: int, values: dict[str, AxisValue]) -> search.TrialOutcome:
        graph = _prepared(loaded, first.made, first.inputs, values)
        current = replace(first, graph=graph, number=number, earlier=states, states={}, stops=[])
        current.execute()
        for name, state in current.states.items():
            if state.state != KEPT or name not in states:
                states[name] = state
        _note_trials(study, manifest)
        return search.TrialOutcome(states=current.states, graph=graph)

    try:
        study.run(perform)
    finally:
        manifest.steps = list(states.values()) or manifest.steps
        manifest.importance = study.importance()
        _note_trials(study, manifest)
        manifest.finished = not study.left
        manifest.inputs = first.inputs.records
        manifest.seconds = round(time.perf_counter() - began, 3)
        first.save()


def _note_trials(study: search.Study, manifest: Manifest) -> None:
    """Write what is known of the trials, and the outputs of the best ones."""
    manifest.trials = study.records()
    best = {step for trial in manifest.trials if trial.best for step in trial.steps}
    made = [path for one in manifest.steps if one.id in best for path in one.outputs.values()]
    manifest.outputs = {"best": list(dict.fromkeys(made))}


def _manifest(
    loaded: LoadedRecipe, fingerprint: str, earlier: Manifest | None, folder: Path
) -> Manifest:
    return Manifest(
        version=__version__,
        recipe=str(loaded.path),
        name=loaded.name,
        folder=str(folder),
        about=loaded.about,
        started=execution.now(),
        validated=fingerprint,
        variables={name: _plain(value) for name, value in loaded.variables.items()},
        changed={name: _plain(value) for name, value in loaded.changed.items()},
        recipe_text={str(one.path): one.text for one in loaded.documents},
        environment=execution.environment(),
        files=earlier.files if earlier else [],
    )


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
    steps = folder / made_steps.STEPS
    if steps.exists() and not steps.is_dir():
        raise OutputError(f"{steps} is a file", expected="a folder of an earlier run")
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


def _options(
    given: Mapping[str, object] | str | Sequence[str] | None, jobs: int | None, threads: int | None
) -> Mapping[str, object]:
    """Options of an executor, by name; texts are YAML."""
    own = {"parallel": jobs, "threads": threads}
    named = given if isinstance(given, Mapping) else _changes(given)
    return {**named, **{name: value for name, value in own.items() if value is not None}}


def _steps(graph: RecipeGraph) -> list[tuple[str, str, Mapping[str, Value]]]:
    """A graph as it is checked."""
    return [(one.id, one.verb, validation.options(one)) for one in graph.instances.values()]


def _plain(value: Value) -> Plain | list[Plain]:
    if isinstance(value, list):
        return [str(v) if isinstance(v, list | dict) else v for v in value]
    return str(value) if isinstance(value, dict) else value


def _nothing(_: str) -> None:
    pass
