"""Keys of steps: a step whose key is that of an earlier run is not run again."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from functools import cache

from kanna import __version__
from kanna.recipes.document import Value
from kanna.recipes.graph import RecipeGraph, StepInstance
from kanna.recipes.inputs import RecipeInputs, split_weight
from kanna.recipes.values import Option, StepOutput, replaced


@cache
def machine() -> str:
    """This machine, for results that are about it."""
    import psutil  # of a machine's memory alone

    return f"{platform.node()} {platform.machine()} {psutil.virtual_memory().total}"


def digest(value: object) -> str:
    """SHA-256 of what JSON can hold."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def step_key(
    instance: StepInstance, graph: RecipeGraph, inputs: RecipeInputs, upstream: Mapping[str, str]
) -> str:
    """The key of a step: verb, options, hashes of what it reads, version.

    Args:
        instance: The step.
        graph: The recipe.
        inputs: Hashes of files and models from outside.
        upstream: Keys of the steps whose outputs it takes.

    Raises:
        KannaError: A model cannot be fetched.
        OSError: A file cannot be read.
    """
    verb = graph.steps[instance.step].verb

    def made(output: StepOutput) -> Value:
        # Those of a matrix that were not made are left out, here as in the call.
        keys = [upstream[i] for i in output.instances if i in upstream]
        return [{"step": key, "output": output.output} for key in keys]

    def content(option: str, value: Option) -> Value:
        if isinstance(value, list):
            return [content(option, item) for item in value]
        if option in verb.inputs and isinstance(value, str) and value not in verb.words:
            name, weight = split_weight(value, verb.inputs[option])
            return {"sha256": inputs.record(name).sha256, "weight": weight}
        return replaced(value, made)

    return digest(
        {
            "version": __version__,
            "verb": instance.verb,
            "options": {name: content(name, v) for name, v in instance.options.items()},
            "machine": machine() if verb.measures else "",
        }
    )
