"""A recipe as a graph: every step once for each combination of its matrix."""

from __future__ import annotations

import heapq
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from itertools import product

from kanna._util.nearest import nearest
from kanna.recipes import expressions, verbs
from kanna.recipes.document import Value
from kanna.recipes.expressions import Condition, ExpressionError
from kanna.recipes.loading import LoadedRecipe, LoadedStep
from kanna.recipes.options import model as options_of
from kanna.recipes.problems import Problems
from kanna.recipes.values import NameReference, Option, StepOutput, fill, references, rooted
from kanna.recipes.verbs.base import StepVerb

MOST_INSTANCES = 1000
Axis = tuple[str, str]
"""The step that declares it, and its name."""
AxisValue = str | int | float | bool
SEARCH = "search:"
"""Owner of the axes that are variables of a search; no step has this name."""


@dataclass(slots=True, kw_only=True)
class RecipeStep:
    """A step of a recipe.

    Attributes:
        verb: What its verb is as a step.
        axes: Its own axes and those of the steps that it takes one instance of.
        upstream: Steps that end before it begins, and whether it takes all of their instances
            alone.
        collected: Those of which it takes all instances.
        conditions: `when` and `stop_when`, where it has them.
    """

    loaded: LoadedStep
    verb: StepVerb
    axes: dict[Axis, list[AxisValue]] = field(default_factory=dict[Axis, "list[AxisValue]"])
    upstream: dict[str, bool] = field(default_factory=dict[str, bool])
    collected: set[str] = field(default_factory=set[str])
    conditions: dict[str, Condition] = field(default_factory=dict[str, Condition])


@dataclass(slots=True, kw_only=True)
class StepInstance:
    """A step with the values of its axes.

    Attributes:
        id: Name of its folder.
        axes: Its value on each axis.
        options: Of the verb, with the outputs of other steps still to come.
        upstream: Ids of instances that end before it begins.
    """

    id: str
    step: str
    verb: str
    axes: dict[Axis, AxisValue]
    options: dict[str, Option]
    upstream: tuple[str, ...]

    @property
    def values(self) -> dict[str, AxisValue]:
        """Its value on each axis, by the names of these."""
        return {name: value for (_, name), value in self.axes.items()}


@dataclass(slots=True, kw_only=True)
class RecipeGraph:
    """All steps and instances of a recipe, in an order in which they can run."""

    recipe: LoadedRecipe
    steps: dict[str, RecipeStep]
    instances: dict[str, StepInstance]
    outputs: dict[str, StepOutput]

    def of_step(self, name: str, axes: Mapping[Axis, AxisValue]) -> list[StepInstance]:
        """Instances of a step that agree with these values, on the axes that they share."""
        return [
            one
            for one in self.instances.values()
            if one.step == name and all(axes.get(a, v) == v for a, v in one.axes.items())
        ]


def build(
    recipe: LoadedRecipe, problems: Problems, trial: Mapping[str, AxisValue] | None = None
) -> RecipeGraph:
    """Look up every name of a recipe.

    Args:
        recipe: As it was read.
        problems: Where to note what is wrong; the graph is of use only where nothing is.
        trial: Of a search, the values of the variables that it tries: axes of one value, so that
            steps that no searched variable reaches are the same in every trial.
    """
    graph = RecipeGraph(recipe=recipe, steps={}, instances={}, outputs={})
    for name, loaded in recipe.steps.items():
        verb = loaded.text.verb
        if verb not in verbs.names():
            problems.add(
                loaded.place("verb"),
                f"there is no verb {verb} for a step{nearest(verb, verbs.names())}",
                expected=", ".join(verbs.names()),
            )
            continue
        graph.steps[name] = RecipeStep(loaded=loaded, verb=verbs.get(verb))
        if name in recipe.variables:
            problems.add(loaded.place(), f"{name} is the name of a variable, too")
    for step in graph.steps.values():
        _conditions(step, problems)
        _upstream(step, graph, problems)
    problems.raise_any()
    for name in _order(graph, problems):
        _axes(graph.steps[name], graph, problems, trial or {})
        problems.raise_any()
        _instances(name, graph, problems)
        problems.raise_any()
    _outputs(graph, problems)
    graph.instances = _scheduled(graph)
    return graph


def _conditions(step: RecipeStep, problems: Problems) -> None:
    text = step.loaded.text
    for key, written in (("when", text.when), ("stop_when", text.stop_when)):
        if written is not None:
            try:
                step.conditions[key] = expressions.parse(written)
            except ExpressionError as error:
                problems.add(
                    step.loaded.place(key), f"{key}: {error}", expected="quality.top1 > 0.9"
                )


def _upstream(step: RecipeStep, graph: RecipeGraph, problems: Problems) -> None:
    """Note which steps a step waits for; names that nothing has are problems."""
    loaded, recipe = step.loaded, graph.recipe
    axes = {name for other in recipe.steps.values() for name in other.text.matrix}
    known = [*recipe.variables, *recipe.steps, *axes]
    written = {("with", key): value for key, value in loaded.text.options.items()}
    for keys, value in written.items():
        for one in references(value):
            if one.name in recipe.steps:
                step.upstream[one.name] = one.every and step.upstream.get(one.name, True)
                step.collected |= {one.name} if one.every else set()
                _check_output(one, step, graph, keys, problems)
            elif one.name not in known or one.output or one.every:
                shown = one.name or one.written
                problems.add(
                    loaded.place(*keys),
                    f"there is no step or variable {shown}{nearest(shown, known)}",
                    expected=", ".join(dict.fromkeys(known)),
                )
    for key, condition in step.conditions.items():
        for name in condition.names:
            other, _, figure = name.partition(".")
            if figure and other in graph.steps:
                if other != loaded.name:
                    step.upstream[other] = False
                elif key == "when":
                    problems.add(loaded.place(key), f"when asks for {name}, which it precedes")
                figures = graph.steps[other].verb.figures
                if figure not in figures:
                    problems.add(
                        loaded.place(key),
                        f"{key}: {other} measures no {figure}{nearest(figure, figures)}",
                        expected=", ".join(figures),
                    )
            elif figure or name not in known or name in recipe.steps:
                missing = other if figure else name
                problems.add(
                    loaded.place(key),
                    f"{key}: there is no {missing}{nearest(missing, known)}",
                    expected="STEP.FIGURE, a variable or an axis",
                )


def _check_output(
    one: NameReference,
    step: RecipeStep,
    graph: RecipeGraph,
    keys: tuple[str, str],
    problems: Problems,
) -> None:
    """Hold what an option is given to what it takes."""
    place, option = step.loaded.place(*keys), keys[1]
    maker = graph.steps.get(one.name)
    if maker is None:
        return
    outputs = maker.verb.outputs
    name = one.output or next(iter(outputs), "")
    if name not in outputs:
        what = f"{one.name} ({maker.loaded.text.verb}) makes no {name or 'file'}"
        problems.add(
            place,
            f"{option}: {what}{nearest(name, outputs)}",
            expected=", ".join(outputs) or "a step that makes something",
        )
        return
    kind, taken = outputs[name].kind, step.verb.inputs.get(option, frozenset())
    if not taken and option not in options_of(step.loaded.text.verb).model_fields:
        return  # an unknown option, which is told with the names of others
    if kind not in taken:
        wanted = " or ".join(sorted(taken)) or "a value"
        what = f"the option {option} takes {wanted}, {one.name}.{name} is of the kind {kind}"
        problems.add(place, what, expected=wanted)


def _order(graph: RecipeGraph, problems: Problems) -> list[str]:
    """Names of steps, each after those that it waits for."""
    try:
        sorter = TopologicalSorter({name: s.upstream for name, s in graph.steps.items()})
        return list(sorter.static_order())
    except CycleError as error:
        circle: list[str] = error.args[1]
        place = graph.steps[circle[0]].loaded.place()
        problems.add(
            place,
            f"steps wait for each other: {' → '.join(reversed(circle))}",
            expected="no circle",
        )
    problems.raise_any()
    return []


def _axes(
    step: RecipeStep, graph: RecipeGraph, problems: Problems, trial: Mapping[str, AxisValue]
) -> None:
    loaded, recipe = step.loaded, graph.recipe
    for name, every in step.upstream.items():
        step.axes |= {
            axis: values
            for axis, values in graph.steps[name].axes.items()
            if axis[0] == SEARCH or not every
        }
    used = {one.name for value in loaded.text.options.values() for one in references(value)}
    used |= {name for condition in step.conditions.values() for name in condition.names}
    step.axes |= {(SEARCH, name): [trial[name]] for name in trial if name in used}
    for name, written in loaded.text.matrix.items():
        place = loaded.place("for", name)
        values: Value = [*written] if isinstance(written, list) else written
        if isinstance(values, str):
            names = {one.name for one in references(values)}
            if not names <= recipe.variables.keys():
                problems.add(place, f"for {name}: {values} is no variable", expected="a list")
                return
            filled = fill(values, lambda one: recipe.variables[one.name])  # pyright: ignore[reportArgumentType, reportReturnType]
            values = filled if isinstance(filled, list) else values  # pyright: ignore[reportAssignmentType]
        if not isinstance(values, list) or not values:
            problems.add(place, f"for {name}: no list of values", expected="[one, two]")
            return
        if name in recipe.variables or name in recipe.steps:
            problems.add(place, f"the axis {name} is a variable or a step, too")
        items = [v for v in values if isinstance(v, str | int | float | bool)]
        filled_items = [_variables_in(v, recipe) for v in items]
        step.axes[loaded.name, name] = list(dict.fromkeys(filled_items))
    names = [name for _, name in step.axes]
    for name in sorted({name for name in names if names.count(name) > 1}):
        owners = ", ".join(owner for owner, axis in step.axes if axis == name)
        problems.add(
            loaded.place("for", name),
            f"two axes are called {name}: those of {owners}",
            todo="a step has the axes of the steps that it refers to already: give its own "
            "another name, or take all of them with ${STEP.*}",
        )


def _variables_in(value: AxisValue, recipe: LoadedRecipe) -> AxisValue:
    if not isinstance(value, str):
        return value
    filled = fill(value, lambda one: recipe.variables.get(one.name))  # pyright: ignore[reportArgumentType, reportReturnType]
    return filled if isinstance(filled, str | int | float | bool) else value


def _instances(name: str, graph: RecipeGraph, problems: Problems) -> None:
    step = graph.steps[name]
    for values in product(*step.axes.values()):
        axes = dict(zip(step.axes, values, strict=True))
        if len(graph.instances) >= MOST_INSTANCES:
            problems.add(
                step.loaded.place("for"), f"the recipe runs more than {MOST_INSTANCES} steps"
            )
            return
        words = [name, *(re.sub(r"[^\w.+-]+", "_", str(v))[:40] for v in values)]
        label = own = "-".join(words)
        while own.lower() in {other.lower() for other in graph.instances}:
            own = f"{label}-{sum(one.step == name for one in graph.instances.values())}"
            label += "-"
        options = _filled(step, axes, graph, problems)
        upstream = [
            one.id
            for other in step.upstream
            for one in graph.of_step(other, {} if other in step.collected else axes)
        ]
        graph.instances[own] = StepInstance(
            id=own,
            step=name,
            verb=step.loaded.text.verb,
            axes=axes,
            options=options,
            upstream=tuple(upstream),
        )


def _filled(
    step: RecipeStep, axes: Mapping[Axis, AxisValue], graph: RecipeGraph, problems: Problems
) -> dict[str, Option]:
    loaded, recipe = step.loaded, graph.recipe
    values = {name: value for (_, name), value in axes.items()}

    def lookup(one: NameReference) -> Option:
        if one.name in graph.steps:
            made = graph.of_step(one.name, {} if one.every else axes)
            output = one.output or next(iter(graph.steps[one.name].verb.outputs))
            return StepOutput(tuple(i.id for i in made), output, one.every)
        if one.name in values:
            return values[one.name]
        if one.name not in recipe.variables:
            raise ValueError(f"the axis {one.name} is none of this step")
        return recipe.variables[one.name]  # pyright: ignore[reportReturnType]

    options: dict[str, Option] = {}
    for key, value in loaded.text.options.items():
        try:
            options[key] = fill(rooted(value, loaded.folder), lookup)  # pyright: ignore[reportArgumentType]
        except ValueError as error:
            problems.add(loaded.place("with", key), f"{key}: {error}")
    return options


def _outputs(graph: RecipeGraph, problems: Problems) -> None:
    for name, (written, place) in graph.recipe.outputs.items():
        named = list(references(written))
        maker = graph.steps.get(named[0].name) if named else None
        output = (named[0].output if named else "") or next(
            iter(maker.verb.outputs if maker else ()), ""
        )
        if maker is None or output not in maker.verb.outputs:
            problems.add(
                place,
                f"{name}: {written} is no output of a step",
                expected="${STEP} or ${STEP.NAME}",
            )
            continue
        made = graph.of_step(named[0].name, {})
        graph.outputs[name] = StepOutput(tuple(i.id for i in made), output, len(made) > 1)


def _scheduled(graph: RecipeGraph) -> dict[str, StepInstance]:
    """Instances in order: one combination of a matrix as far as it goes, then the next."""
    axes = list(dict.fromkeys(axis for step in graph.steps.values() for axis in step.axes))
    names = list(graph.recipe.steps)
    waiting = {one.id: set(one.upstream) for one in graph.instances.values()}
    followers: dict[str, list[str]] = {}
    for one in graph.instances.values():
        for other in one.upstream:
            followers.setdefault(other, []).append(one.id)

    def rank(one: StepInstance) -> tuple[list[int], int]:
        step = graph.steps[one.step]
        combination = [
            step.axes[axis].index(one.axes[axis]) if axis in one.axes else -1 for axis in axes
        ]
        return combination, names.index(one.step)

    ready = [(rank(one), one.id) for one in graph.instances.values() if not waiting[one.id]]
    heapq.heapify(ready)
    ordered: dict[str, StepInstance] = {}
    while ready:
        _, current = heapq.heappop(ready)
        ordered[current] = graph.instances[current]
        for other in followers.get(current, []):
            waiting[other].discard(current)
            if not waiting[other] and other not in ordered:
                heapq.heappush(ready, (rank(graph.instances[other]), other))
    return ordered
