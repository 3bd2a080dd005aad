"""What a run would do, nothing of it done: `kanna run --dry-run`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from kanna.errors import KannaError
from kanna.recipes import keys, records, step_memory, step_run
from kanna.recipes.graph import RecipeGraph, StepInstance
from kanna.recipes.inputs import RecipeInputs
from kanna.recipes.made_steps import STEPS
from kanna.recipes.records import KEPT, PENDING, Plain
from kanna.recipes.values import StepOutput, replaced
from kanna.recipes.verbs.base import Prediction


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedStep:
    """A step of a dry run.

    Attributes:
        needs: Steps that end before it begins.
        state: `kept` where an earlier run made it, else `pending`.
        seconds: What it took in the last run of this folder; None: it was not run yet.
        why: Why nothing is predicted; empty where something is.
    """

    id: str
    step: str
    verb: str
    axes: Mapping[str, Plain]
    needs: tuple[str, ...]
    state: str
    seconds: float | None
    predicted: Prediction
    why: str = ""


def plan(graph: RecipeGraph, folder: Path, inputs: RecipeInputs) -> list[PlannedStep]:
    """What would become of every step, in the order of the run."""
    planned: list[PlannedStep] = []
    known: dict[str, str] = {}
    for instance in graph.instances.values():
        earlier = records.read_step(folder / STEPS / instance.id)
        state = PENDING
        try:
            known[instance.id] = keys.step_key(instance, graph, inputs, known)
            if step_run.kept(folder / STEPS / instance.id, known[instance.id]) is not None:
                state = KEPT
        except (KannaError, OSError):
            pass  # a model that would have to be fetched
        predicted, why = _predicted(instance, graph)
        predicted = replace(predicted, step_bytes=_memory(instance, graph))
        planned.append(
            PlannedStep(
                id=instance.id,
                step=instance.step,
                verb=instance.verb,
                axes=dict(instance.values),
                needs=instance.upstream,
                state=state,
                seconds=earlier.seconds if earlier else None,
                predicted=predicted,
                why=why,
            )
        )
    return planned


def _memory(instance: StepInstance, graph: RecipeGraph) -> int:
    """Bytes that the step itself takes, where the models lie here; what others make is no larger.

    The largest model that its steps read stands for what they make of it.
    """
    before = [instance, *(graph.instances[name] for name in _all_before(instance, graph))]
    verb = graph.steps[instance.step].verb
    read = {name: replaced(value, _none) for name, value in instance.options.items()}
    weights = max(
        step_memory.weights(
            graph.steps[one.step].verb,
            {name: replaced(value, _none) for name, value in one.options.items()},
        )
        for one in before
    )
    return verb.memory(read, weights)


def _all_before(instance: StepInstance, graph: RecipeGraph) -> Iterator[str]:
    for name in instance.upstream:
        yield name
        yield from _all_before(graph.instances[name], graph)


def _none(_: StepOutput) -> str:
    return ""


def _predicted(instance: StepInstance, graph: RecipeGraph) -> tuple[Prediction, str]:
    verb = graph.steps[instance.step].verb
    if verb.predict is None:
        return Prediction(), ""
    outside: list[str] = []

    def from_step(output: StepOutput) -> str:
        outside.extend(output.instances)
        return ""

    options = {name: replaced(value, from_step) for name, value in instance.options.items()}
    if outside and "source" in options and not options["source"]:
        return Prediction(), f"it depends on what {outside[0]} makes"
    given = {name: value for name, value in options.items() if value != ""}
    try:
        return verb.predict(given), ""
    except (KannaError, OSError) as error:
        return Prediction(), str(error.found if isinstance(error, KannaError) else error)
