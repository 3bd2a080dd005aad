"""Options held to what their verbs take, before anything runs."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import ValidationError

from kanna.errors import KannaError
from kanna.recipes import text
from kanna.recipes.document import Value
from kanna.recipes.graph import RecipeGraph, StepInstance
from kanna.recipes.options import model
from kanna.recipes.problems import Problems
from kanna.recipes.values import StepOutput, replaced


def _stand_in(output: StepOutput) -> Value:
    names: list[Value] = [f"{i}/{output.output}" for i in output.instances]
    return names if output.every else names[0]


def options(instance: StepInstance) -> Mapping[str, Value]:
    """The options of an instance, with names in place of what other steps will make."""
    return {key: replaced(value, _stand_in) for key, value in instance.options.items()}


def check(graph: RecipeGraph, problems: Problems) -> None:
    """Note options that their verbs would refuse: unknown ones, types, presets, budgets, targets.

    Args:
        graph: Whose instances are checked.
        problems: Where to note them.
    """
    for instance in graph.instances.values():
        step = graph.steps[instance.step]
        given, known = options(instance), model(instance.verb)
        try:
            known.model_validate(given)
        except ValidationError as error:
            above = ("steps", instance.step, "with")
            text.note(error, step.loaded.document, above, known, problems)
            continue
        if step.verb.check is None:
            continue
        try:
            step.verb.check(given)
        except KannaError as error:
            problems.add(
                step.loaded.place("with"),
                f"{instance.step}: {error.found}",
                expected=error.expected,
                todo=error.todo,
            )
