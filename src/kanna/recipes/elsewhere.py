"""A recipe as a job of another machine: what it needs, and the files that describe it."""

from __future__ import annotations

import importlib
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import kanna
from kanna import executors, formats, runtimes
from kanna._util.arguments import names
from kanna._util.atomic import write_text
from kanna._util.own_files import complete
from kanna.errors import OutputError, UsageError
from kanna.executors import settings
from kanna.executors.base import Executor, JobFiles, JobInput, JobOutcome, JobStep, RecipeJob
from kanna.executors.commands import HEAD
from kanna.recipes import made_steps
from kanna.recipes.document import Value
from kanna.recipes.graph import RecipeGraph, StepInstance
from kanna.recipes.inputs import split_weight
from kanna.recipes.loading import LoadedRecipe
from kanna.recipes.result import RunResult
from kanna.recipes.values import Option, RootedText

MOST_BYTES = 100 << 20
"""Of a file or folder that a step names without a variable: it travels with the recipe."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Elsewhere:
    """The executor of a run, and what is set of it.

    Attributes:
        name: Of the executor.
        changes: Variables of the recipe that were set, as they would stand in a file.
    """

    name: str = executors.LOCAL
    config: str | Path | None = None
    given: Mapping[str, object] = field(default_factory=dict[str, object])
    changes: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def executor(self) -> Executor:
        """The executor; raises UsageError for an unknown one."""
        return executors.get(self.name)

    def options(self) -> object:
        """What is set of it; raises UsageError."""
        return settings.read(self.executor.options, self.name, self.config, self.given)


def perform(
    place: Elsewhere,
    loaded: LoadedRecipe,
    graphs: list[RecipeGraph],
    out: str | Path | None,
    remark: Callable[[str], None],
    *,
    dry_run: bool,
) -> RunResult:
    """Write the files of a job, and run it where its service is named and nothing is dry.

    Args:
        place: The executor, and what is set of it.
        loaded: The recipe.
        graphs: Of it, whose paths are absolute.
        out: Where the files go; None: where they belong.
        remark: Is told what is left to the user, and of the job.
        dry_run: Only write the files.

    Raises:
        UsageError: The recipe cannot go there.
        OutputError: A file is there that kanna did not write.
        SourceError: The service does not answer.
    """
    executor, chosen = place.executor, place.options()
    assert executor.files is not None
    files = executor.files(job(loaded, graphs, place.changes), chosen)
    start = executor.submit(chosen, remark) if executor.submit and not dry_run else None
    described = written(loaded.name, files, out, executor, remark, started=bool(start))
    return ended(described, start) if start else described


def job(loaded: LoadedRecipe, graphs: list[RecipeGraph], changes: Mapping[str, str]) -> RecipeJob:
    """The recipe as a job.

    Args:
        loaded: The recipe.
        graphs: Of it, whose paths are absolute.
        changes: Variables that were set, as they would stand in a file.

    Raises:
        UsageError: A step names a large file without a variable.
    """
    read = set(_files_read(graphs))
    inputs = [
        JobInput(
            variable=name,
            paths=tuple(paths),
            several=isinstance(value, list),
            changed=name in changes,
        )
        for name, value in loaded.variables.items()
        if (paths := _paths(value)) and read.issuperset(paths)
    ]
    by_variable = {path for one in inputs for path in one.paths}
    literal = [file for path in sorted(read - by_variable) for file in _travelling(path)]
    variables = {one.variable for one in inputs}
    return RecipeJob(
        name=re.sub(r"[^a-z0-9]+", "-", loaded.path.stem.lower()).strip("-")[:40] or "recipe",
        title=loaded.name,
        recipe=loaded.path,
        files=(*(one.path for one in loaded.documents), *literal),
        inputs=tuple(inputs),
        values={name: text for name, text in changes.items() if name not in variables},
        extras=tuple(_extras(loaded, graphs)),
        version=kanna.__version__,
        steps=() if loaded.search else tuple(_steps(graphs[0], inputs)),
        axes=tuple(one.variable for one in inputs if _is_axis(one, graphs)),
    )


def _steps(graph: RecipeGraph, inputs: list[JobInput]) -> Iterator[JobStep]:
    """The steps of a recipe as jobs of their own."""
    for instance in graph.instances.values():
        read = set(_read(instance, graph))
        yield JobStep(
            id=instance.id,
            needs=tuple(made_steps.needs(graph, instance.id)),
            variables=tuple(one.variable for one in inputs if read & set(one.paths)),
        )


def _is_axis(one: JobInput, graphs: list[RecipeGraph]) -> bool:
    """Whether files of a variable are values of an axis."""
    values = [v for graph in graphs for i in graph.instances.values() for v in i.axes.values()]
    return any(set(one.paths) & set(_paths(value)) for value in values)


def _files_read(graphs: list[RecipeGraph]) -> Iterator[Path]:
    for graph in graphs:
        for instance in graph.instances.values():
            yield from _read(instance, graph)


def _read(instance: StepInstance, graph: RecipeGraph) -> Iterator[Path]:
    """What a step reads of this machine."""

    def of(value: Option, kinds: frozenset[str]) -> Iterator[Path]:
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, str):
                path = Path(split_weight(item, kinds)[0])
                if path.is_absolute() and path.exists():
                    yield path

    verb = graph.steps[instance.step].verb
    for option in verb.inputs.keys() & instance.options.keys():
        yield from of(instance.options[option], verb.inputs[option])


def _paths(value: Value) -> list[Path]:
    """Where the files lie that a variable names, each of them; none where one is no file."""
    listed = value if isinstance(value, list) else [value]
    texts = [one for one in listed if isinstance(one, RootedText)]
    if len(texts) < len(listed):
        return []
    return [(text.folder / Path(text).expanduser()).absolute() for text in texts]


def _travelling(path: Path) -> list[Path]:
    """The files at a path that go with the recipe."""
    files = sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
    if sum(file.stat().st_size for file in files) > MOST_BYTES:
        raise UsageError(
            f"{path} is named by a step itself, and too large to go with the recipe",
            expected=f"a variable that names it, or at most {MOST_BYTES} bytes",
            todo="write it under variables:, and ${NAME} in the step",
        )
    return files


def _extras(loaded: LoadedRecipe, graphs: list[RecipeGraph]) -> list[str]:
    """Extras of kanna that the verbs of the steps need, those of runtimes by their formats."""
    needed: set[str] = {"search"} if loaded.search else set()
    for graph in graphs:
        used = {formats.DEFAULT}
        runs = False
        for instance in graph.instances.values():
            verb, options = graph.steps[instance.step].verb, instance.options
            module = importlib.import_module(getattr(kanna, instance.verb).__module__)
            needed.update(names(getattr(module, "EXTRA", "")))
            runs = runs or verb.runs or bool(options.get("verify") or options.get("selftest"))
            used |= _formats(options)
        if runs:
            needed.add("torch")  # originals run in it
            needed.update(filter(None, map(_runtime_extra, used)))
    return sorted(needed)


def _formats(options: Mapping[str, Option]) -> set[str]:
    """Formats that options name, by `format` and `preset` or by their plurals."""
    values = [options.get(key) for key in ("format", "formats", "preset", "presets")]
    listed = [one for value in values for one in (value if isinstance(value, list) else [value])]
    texts = [one for one in listed if isinstance(one, str)]
    return {text.partition(":")[0] for text in names(texts)} & set(formats.names())


def _runtime_extra(format: str) -> str:
    name = formats.get(format).runtime
    return runtimes.get(name).extra if name else ""


def written(
    name: str,
    files: JobFiles,
    out: str | Path | None,
    executor: Executor,
    remark: Callable[[str], None],
    *,
    started: bool = False,
) -> RunResult:
    """Write the files of a job, and say how it is started.

    Args:
        name: Of the recipe.
        files: What to write.
        out: Where; None: where it belongs.
        executor: Whose files they are.
        remark: Is told what is left to the user.
        started: Whether it is started from here: then nothing is.

    Raises:
        OutputError: A file is there that kanna did not write.
    """
    folder = Path(out) if out is not None else files.place or Path()
    paths = write(files, folder)
    checked = executor.check(list(map(Path, paths))) if executor.check else []
    for note in checked if started else (*checked, *files.notes):
        remark(note)
    return RunResult(
        name=name,
        folder=str(folder),
        report="",
        steps=[],
        dry_run=True,
        files=paths,
        commands=list(files.commands),
    )


def ended(written: RunResult, start: Callable[[Path], JobOutcome]) -> RunResult:
    """Run a job whose files are written; returns what became of it."""
    began = time.perf_counter()
    outcome = start(Path(written.folder).absolute())
    return replace(
        written,
        dry_run=False,
        job=outcome,
        seconds=round(time.perf_counter() - began, 3),
        commands=list(outcome.commands),
    )


def write(files: JobFiles, folder: Path) -> list[str]:
    """Write the files of a job; returns their paths.

    Raises:
        OutputError: One is there that kanna did not write.
    """
    # What was copied before changes with the recipe.
    copied = any(_begins_as_ours(folder / name) for name in files.texts)
    for name in (*files.texts, *files.copies):
        path = folder / name
        ours = copied if name in files.copies else _is_ours(path, files.texts[name])
        if path.is_symlink() or (path.exists() and not ours):
            raise OutputError(
                f"{path} is there, and was not written by kanna",
                todo="move it away, or name another folder with -o",
            )
    written: list[str] = []
    for name, text in files.texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_text(folder / name, text)
        written.append(str(folder / name))
    for name, source in files.copies.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with complete(folder / name) as partial:
            partial.write_bytes(source.read_bytes())
        written.append(str(folder / name))
    return written


def _is_ours(path: Path, text: str) -> bool:
    return _begins_as_ours(path) or (path.is_file() and path.read_bytes() == text.encode())


def _begins_as_ours(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(HEAD)) == HEAD.encode()
