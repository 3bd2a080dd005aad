"""A run: every step in order, and a manifest that is whole at any moment."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from kanna import __version__
from kanna._util import digest, own_files
from kanna._util.progress import Progress
from kanna.errors import KannaError
from kanna.recipes import keys, records, step_run, tracked
from kanna.recipes.document import Value
from kanna.recipes.expressions import ExpressionError, Operand
from kanna.recipes.graph import Axis, AxisValue, RecipeGraph, StepInstance
from kanna.recipes.inputs import RecipeInputs
from kanna.recipes.made_steps import STEPS, MadeSteps
from kanna.recipes.records import (
    BLOCKED,
    DONE,
    FAILED,
    KEPT,
    PENDING,
    SKIPPED,
    STOPPED,
    ErrorRecord,
    FileRecord,
    Manifest,
    StepRecord,
    StepState,
)
from kanna.recipes.step_pools import StepsAtWork
from kanna.recipes.step_run import StepCall
from kanna.recipes.values import StepOutput, replaced
from kanna.tracking import TrackedRun

_READY = (DONE, KEPT)


@dataclass(slots=True, kw_only=True)
class RecipeRun:
    """A run of a recipe in a folder.

    Attributes:
        inputs: Hashes of what steps read from outside.
        manifest: What is known of the run so far.
        earlier: States of earlier trials of a search, by id.
        number: Which trial of a search it is; 0 for a run without one.
        tracked: The run at a tracking server.
        pool: Where steps run.
        made: What of the recipe other runs made, and what of it runs here.
        stops: Combinations of axes whose others are not run any more; an empty one stops the rest.
            Each with the number of its step: it is for later ones alone, as in a run of one step
            after another.
    """

    graph: RecipeGraph
    folder: Path
    inputs: RecipeInputs
    manifest: Manifest
    offline: bool
    progress: Progress
    remark: Callable[[str], None]
    tracked: TrackedRun
    pool: StepsAtWork
    earlier: dict[str, StepState] = field(default_factory=dict[str, StepState])
    number: int = 0
    states: dict[str, StepState] = field(default_factory=dict[str, StepState])
    made: MadeSteps = field(default_factory=MadeSteps)
    stops: list[tuple[int, dict[Axis, AxisValue]]] = field(
        default_factory=list[tuple[int, dict[Axis, AxisValue]]]
    )

    def execute(self) -> Manifest:
        """Run what must be run; returns the manifest, which is in the folder, too."""
        began = time.perf_counter()
        for name, made in self.made.states.items():
            self.states[name] = made
            if not self.made.only:
                self.made.bring(name, self.folder)
        here = self.made.here(self.graph)
        for instance in here:
            self.states[instance.id] = StepState(
                id=instance.id,
                step=instance.step,
                verb=instance.verb,
                axes=dict(instance.values),
            )
        before = {i: s for i, s in self.earlier.items() if i not in self.states}
        of_run = [one.id for one in here] if self.made.only else self.graph.instances
        self.manifest.steps = [*before.values(), *(self.states[name] for name in of_run)]
        own_files.sweep(self.folder / STEPS)
        self.save()
        try:
            for state in self._settled():
                self.manifest.seconds = round(time.perf_counter() - began, 3)
                if state.state not in (KEPT, SKIPPED, STOPPED, BLOCKED):
                    self.save()
            self._finish()
        finally:
            self.manifest.inputs = self.inputs.records
            self.manifest.seconds = round(time.perf_counter() - began, 3)
            self.save()
        return self.manifest

    def save(self) -> None:
        """Write the manifest."""
        records.write(self.folder / records.MANIFEST, self.manifest)

    def _settled(self) -> Iterator[StepState]:
        """Run the steps, as many beside each other as the pool takes; each when it has ended."""
        waiting = {one.id: one for one in self.made.here(self.graph)}
        numbers = {name: number for number, name in enumerate(self.graph.instances, 1)}
        for name, made in self.made.states.items():
            if made.stops and name in numbers:
                self.stops.append((numbers[name], self.graph.instances[name].axes))
        running: dict[str, StepInstance] = {}
        while waiting or running:
            for instance in list(waiting.values()):
                if len(running) >= self.pool.slots:
                    break
                if not self._may_begin(instance, {**running, **waiting}):
                    continue
                del waiting[instance.id]
                call = self._begun(instance, numbers[instance.id])
                if call is not None:
                    running[instance.id] = instance
                    self.pool.start(call)
                    continue
                yield self._ended(instance, numbers[instance.id], None)
            for name, record in self.pool.wait() if running else ():
                yield self._ended(running.pop(name), numbers[name], record)

    def _may_begin(self, instance: StepInstance, unsettled: Mapping[str, StepInstance]) -> bool:
        """Whether all has ended that it waits for, or that could make it needless."""
        if unsettled.keys() & set(instance.upstream):
            return False
        for other in self.graph.instances.values():
            if other.id == instance.id:
                return True
            stops = "stop_when" in self.graph.steps[other.step].conditions
            if stops and other.id in unsettled and other.axes.keys() <= instance.axes.keys():
                return False
        return True

    def _begun(self, instance: StepInstance, number: int) -> StepCall | None:
        """The call of a step that must be run; None: its state says what became of it."""
        state = self.states[instance.id]
        with self._noting(state):
            state.state, state.why = self._before(instance, number)
            if state.state == DONE:
                return self._prepared(instance, state, number)
        return None

    def _ended(self, instance: StepInstance, number: int, record: StepRecord | None) -> StepState:
        """Note what became of a step, and what follows from it."""
        state = self.states[instance.id]
        with self._noting(state):
            if record is not None:
                state.state = DONE if record.error is None else FAILED
                self._note(instance, state, record)
            if state.state in _READY:
                self._after(instance, number)
        if state.error is not None:
            self.remark(f"{instance.id} failed: {state.error.found}")
        tracked.note_step(self.tracked, state, instance.options, (number, self.folder))
        return state

    @contextmanager
    def _noting(self, state: StepState) -> Generator[None]:
        """Note an error as that of a step."""
        try:
            yield
        except (KannaError, OSError, ExpressionError) as error:
            state.state = FAILED
            state.error = (
                ErrorRecord(found=f"its condition has no value: {error}")
                if isinstance(error, ExpressionError)
                else step_run.problem(error)
            )

    def _before(self, instance: StepInstance, number: int) -> tuple[str, str]:
        """Whether a step runs (`done`), or what becomes of it instead, and why."""
        for stopper, stop in self.stops:
            if stopper < number and (
                not stop
                or (
                    stop.keys() <= instance.axes.keys()
                    and any(instance.axes[axis] != value for axis, value in stop.items())
                )
            ):
                return STOPPED, "an earlier step had reached its goal"
        step = self.graph.steps[instance.step]
        for name, every in step.upstream.items():
            made = self.graph.of_step(name, {} if every else instance.axes)
            ready = [one for one in made if self.states[one.id].state in _READY]
            if not ready or (not every and len(ready) < len(made)):
                states = {self.states[one.id].state for one in made}
                failed = states & {FAILED, BLOCKED}
                return (BLOCKED if failed else SKIPPED), f"{name} did not run"
        when = step.conditions.get("when")
        if when is not None and not when.holds(self._values(instance, when.names)):
            return SKIPPED, f"not {when.text}"
        return DONE, ""

    def _after(self, instance: StepInstance, number: int) -> None:
        stop = self.graph.steps[instance.step].conditions.get("stop_when")
        if stop is not None and stop.holds(self._values(instance, stop.names)):
            self.states[instance.id].stops = True
            self.stops.append((number, instance.axes))

    def _values(self, instance: StepInstance, names: tuple[str, ...]) -> dict[str, Operand]:
        """Values of the names in a condition."""
        values: dict[str, Operand] = {}
        for name in names:
            step, _, figure = name.partition(".")
            if not figure:
                known: Mapping[str, Value] = {**self.graph.recipe.variables, **instance.values}
                values[name] = known[name]  # pyright: ignore[reportArgumentType]
                continue
            one = instance
            if step != instance.step:
                one = self.graph.of_step(step, instance.axes)[0]
            values[name] = self.states[one.id].figures.get(figure)
        return values

    def _prepared(self, instance: StepInstance, state: StepState, number: int) -> StepCall | None:
        """The call of a step; None where an earlier run made it."""
        ready = {i: s.key for i, s in self.states.items() if s.state in _READY and s.key}
        state.key = keys.step_key(instance, self.graph, self.inputs, ready)
        folder = self.folder / STEPS / instance.id
        record = step_run.kept(folder, state.key)
        if record is not None:
            state.state = KEPT
            self._note(instance, state, record)
            return None
        axes = ", ".join(f"{name} {value}" for name, value in instance.values.items())
        total = len(self.graph.instances)
        trial = f"trial {self.number}, " if self.number else ""
        self.remark(f"[{trial}{number}/{total}] {instance.step}{axes and f' ({axes})'}")
        state.state = PENDING
        return StepCall(
            instance=instance,
            verb=self.graph.steps[instance.step].verb,
            folder=folder,
            options=self._options(instance),
            key=state.key,
        )

    def _note(self, instance: StepInstance, state: StepState, record: StepRecord) -> None:
        """Note what a step left."""
        state.seconds, state.figures, state.notes = record.seconds, record.figures, record.notes
        state.error = record.error
        state.outputs = {
            name: f"{STEPS}/{instance.id}/{path}" for name, path in record.outputs.items()
        }
        if state.state == DONE:
            digest.begin(self.folder / f.name for f in self._output_files([state]))

    def _options(self, instance: StepInstance) -> dict[str, Value]:
        from kanna.recipes.options import model  # loads the verb

        def path(output: StepOutput) -> Value:
            made: list[Value] = [str(self.folder / one) for one in self._made(output)]
            if not made:
                raise KannaError(
                    f"{', '.join(output.instances)} made no {output.output}",
                    todo=f"{records.RESULT} of that step says why",
                )
            return made if output.every else made[0]

        options = {name: replaced(value, path) for name, value in instance.options.items()}
        if self.offline and "offline" in model(instance.verb).model_fields:
            options.setdefault("offline", True)
        return options

    def _made(self, output: StepOutput) -> list[str]:
        """Paths of an output, of the instances that are there."""
        states = [self.states[i] for i in output.instances if i in self.states]
        return [
            s.outputs[output.output]
            for s in states
            if s.state in _READY and output.output in s.outputs
        ]

    def _output_files(self, states: Iterable[StepState]) -> list[FileRecord]:
        paths = [self.folder / path for one in states for path in one.outputs.values()]
        return records.files_of([path for path in paths if path.exists()], self.folder)

    def _finish(self) -> None:
        """Add the outputs of the recipe, and the hash of every file under an output."""
        self.manifest.outputs = {
            name: self._made(output) for name, output in self.graph.outputs.items()
        }
        before = {(f.name, f.bytes, f.mtime_ns): f.sha256 for f in self.manifest.files}
        files = self._output_files(self.manifest.steps)
        for file in files:
            known = before.get((file.name, file.bytes, file.mtime_ns))
            file.sha256 = known or digest.sha256(self.folder / file.name)
        self.manifest.files = files
        self.manifest.finished = True


def environment() -> dict[str, str]:
    """What a run runs in."""
    return {
        "kanna": __version__,
        "python": sys.version.split()[0],
        "system": platform.platform(),
        "machine": platform.node(),
    }


def now() -> str:
    """The time, for a manifest."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
