"""Steps that other runs of a recipe made, on any machine: `kanna run --only STEP --made FOLDER`.

A service that runs each step as a job of its own gives each the folders of those that it needs, and
the last one those of all.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kanna._util import own_files
from kanna._util.atomic import write_text
from kanna._util.digest import sha256
from kanna._util.nearest import nearest
from kanna.errors import FormatError, SourceError, UsageError
from kanna.escaping import json_text
from kanna.recipes import records, step_run
from kanna.recipes.graph import RecipeGraph, StepInstance
from kanna.recipes.records import DONE, KEPT, StepState

STEPS = "steps"
"""The folder of the steps' folders."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeSteps:
    """What of a recipe is made elsewhere, and what of it runs here.

    Attributes:
        only: The one step that runs; "": all that were not made.
        states: Of steps that were made, by id; their outputs are absolute paths.
        folders: Where each of them lies.
        origins: Where each of them lay when it was made.
    """

    only: str = ""
    states: dict[str, StepState] = field(default_factory=dict[str, StepState])
    folders: dict[str, Path] = field(default_factory=dict[str, Path])
    origins: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def partial(self) -> bool:
        """Whether something of the recipe is made elsewhere."""
        return bool(self.only or self.states)

    def here(self, graph: RecipeGraph) -> list[StepInstance]:
        """The instances that may run here, in order.

        Raises:
            UsageError: There is no such step, or what it needs is not given.
        """
        if not self.only:
            return [one for one in graph.instances.values() if one.id not in self.states]
        if self.only not in graph.instances:
            raise UsageError(
                f"there is no step {self.only}{nearest(self.only, graph.instances)}",
                expected=", ".join(graph.instances),
            )
        lacking = [name for name in needs(graph, self.only) if name not in self.states]
        if lacking:
            raise UsageError(
                f"{self.only} needs what {', '.join(lacking)} made",
                expected="the folder of a run that has it",
                todo="--made FOLDER",
            )
        return [graph.instances[self.only]]

    def bring(self, name: str, folder: Path) -> None:
        """Put what a step made into the folder of this run, and its state as it is there."""
        state, made, final = self.states[name], self.folders[name], folder / STEPS / name
        if not made.is_dir():
            return
        work = own_files.fresh_name(final)
        try:
            shutil.copytree(made, work)
            for file in (records.RESULT, records.STEP):
                if (work / file).is_file():
                    value = json.loads((work / file).read_text(encoding="utf-8"))
                    moved = step_run.moved(value, self.origins[name], str(final))
                    write_text(work / file, json_text(moved) + "\n")
            own_files.put(work, final)
        finally:
            own_files.remove(work)
        record = records.read_step(final)
        if record is not None:  # its files have other times here
            record.files = step_run.files_of(final)
            records.write(final / records.STEP, record)
        state.outputs = {
            output: f"{STEPS}/{name}/{Path(path).relative_to(made).as_posix()}"
            for output, path in state.outputs.items()
        }


def needs(graph: RecipeGraph, name: str) -> list[str]:
    """Instances that end before one begins: those it takes something from, or that may stop it."""
    instance = graph.instances[name]
    needed = set(instance.upstream)
    for other in graph.instances.values():
        if other.id == name:
            break
        stops = "stop_when" in graph.steps[other.step].conditions
        if stops and other.axes.keys() <= instance.axes.keys():
            needed.add(other.id)
    return [one for one in graph.instances if one in needed]


def read(only: str, folders: Sequence[str | Path]) -> MadeSteps:
    """What the runs in some folders made.

    Args:
        only: The one step that is to run; "": all that were not made.
        folders: Of runs of the recipe.

    Raises:
        SourceError: One is no folder of a run that ended.
        FormatError: A file in one is not what its run wrote.
    """
    made = MadeSteps(only=only)
    for given in map(Path, folders):
        folder = given.absolute()
        manifest = records.read_manifest(folder)
        if manifest is None or not manifest.finished:
            raise SourceError(
                f"{given} is no folder of a run that ended",
                expected=f"a folder with a {records.MANIFEST}, which `kanna run` wrote",
            )
        hashes = {file.name: file.sha256 for file in manifest.files}
        for state in manifest.steps:
            place = folder / STEPS / state.id
            _check(folder, state, hashes)
            paths = {name: str(folder / path) for name, path in state.outputs.items()}
            made.states[state.id] = state.model_copy(update={"outputs": paths})
            made.folders[state.id] = place
            made.origins[state.id] = str(Path(manifest.folder) / STEPS / state.id)
    return made


def _check(folder: Path, state: StepState, hashes: dict[str, str]) -> None:
    """Hold what a step made to the hashes of its run; raises FormatError."""
    if state.state not in (DONE, KEPT):
        return
    for path in state.outputs.values():
        inside = Path(path).parts[:2] == (STEPS, state.id) and ".." not in Path(path).parts
        if not inside or not (folder / path).exists():
            raise FormatError(f"{folder}: {state.id} has no {path}", todo="fetch the folder again")
    for file in _files(state, hashes):
        if not (folder / file).is_file() or sha256(folder / file) != hashes[file]:
            raise FormatError(
                f"{folder / file} is not what its run wrote", todo="fetch the folder again"
            )


def _files(state: StepState, hashes: dict[str, str]) -> Iterable[str]:
    return (name for name in hashes if name.startswith(f"{STEPS}/{state.id}/"))
