"""A recipe as a pipeline of Azure ML: a command component for each step, wired as the recipe is.

Each component runs `kanna run --only STEP`, given the folders that the steps before it left, so
that conditions hold there as they do here. The last one brings all folders together.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kanna.errors import UsageError
from kanna.escaping import shell_line
from kanna.executors.base import JobInput, JobStep, RecipeJob
from kanna.executors.commands import running, without_expressions

LAST = "everything"
"""The component that brings the folders of all steps together."""
SCHEMAS = "https://azuremlschemas.azureedge.net/latest"


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineParts:
    """What all components of a pipeline share.

    Attributes:
        assets: Data assets by the names of inputs.
        named: Files of a variable by the names of inputs.
        environment: Name and version of the environment.
        node: What each job in the pipeline says of its machine.
    """

    assets: Mapping[str, Mapping[str, Any]]
    named: Mapping[str, Mapping[str, Path]]
    environment: str
    node: Mapping[str, Any]


def pipeline(job: RecipeJob, parts: PipelineParts) -> tuple[dict[str, Any], dict[str, Any]]:
    """The jobs of a pipeline by name, and their components by file.

    Args:
        job: The recipe.
        parts: What its components share.

    Raises:
        UsageError: The recipe cannot be taken apart, or has what Azure would evaluate.
    """
    if not job.steps:
        raise UsageError(
            "a search is no pipeline: what it tries next depends on what it has tried",
            todo="without pipeline=true it is one command job",
        )
    if job.axes:
        raise UsageError(
            f"a matrix goes through the files of {', '.join(job.axes)}: its steps would have other "
            "names where these lie elsewhere",
            expected="axes of presets, numbers and other values",
            todo="without pipeline=true it is one command job",
        )
    last = JobStep(id="", needs=tuple(step.id for step in job.steps), variables=())
    called = _names(job.steps)
    jobs: dict[str, Any] = {}
    components: dict[str, Any] = {}
    for step in (*job.steps, last):
        name = called.get(step.id, LAST)
        made = {f"made_{called[other]}": called[other] for other in step.needs}
        component = _component(job, step, parts, list(made))
        text = repr(sorted(component.items()))
        component["name"] = f"kanna_{re.sub('[^a-z0-9]', '_', job.name)}_{name}"
        component["version"] = hashlib.sha256(text.encode()).hexdigest()[:12]
        components[f"components/{name}.yml"] = component
        jobs[name] = {
            "type": "command",
            "component": f"./components/{name}.yml",
            "inputs": {
                **{
                    one: {"path": f"${{{{parent.inputs.{one}}}}}", "mode": "download"}
                    for one in component["inputs"]
                    if one not in made
                },
                **{
                    one: {"path": f"${{{{parent.jobs.{maker}.outputs.run}}}}", "mode": "download"}
                    for one, maker in made.items()
                },
            },
            "outputs": {"run": "${{parent.outputs.run}}" if step is last else _UPLOADED},
            **parts.node,
        }
    return jobs, components


_UPLOADED = {"type": "uri_folder", "mode": "upload"}


def _component(
    job: RecipeJob, step: JobStep, parts: PipelineParts, made: Sequence[str]
) -> dict[str, Any]:
    """The component of a step, without its name and version."""
    given = tuple(one for one in job.inputs if one.variable in step.variables)
    read = {name: path for one in given for name, path in parts.named[one.variable].items()}

    def place(one: JobInput, path: Path) -> str:
        files = parts.named[one.variable]
        return f"INPUT:{next(name for name, file in files.items() if file == path)}:"

    recipe = job.recipe.relative_to(job.root).as_posix()
    command = running(replace(job, inputs=given), recipe, "OUTPUT:run:", place)
    words = ["--only", step.id] if step.id else []
    for name in made:
        words += ["--made", f"INPUT:{name}:"]
    command = " ".join(filter(None, (command, shell_line(words) if words else "")))
    without_expressions({"the name of a step": step.id, "a path or value": command})
    for name in (*read, *made):
        command = command.replace(f"INPUT:{name}:", f"${{{{inputs.{name}}}}}")
    return {
        "$schema": f"{SCHEMAS}/commandComponent.schema.json",
        "type": "command",
        "display_name": step.id or "all steps together",
        "code": "../code",
        "command": command.replace("OUTPUT:run:", "${{outputs.run}}", 1),
        "environment": parts.environment,
        "inputs": {
            **{name: {"type": parts.assets[name]["type"]} for name in read},
            **{name: {"type": "uri_folder"} for name in made},
        },
        "outputs": {"run": {"type": "uri_folder"}},
    }


def _names(steps: Sequence[JobStep]) -> dict[str, str]:
    """Names that Azure allows for jobs, by the ids of steps, each once."""
    called: dict[str, str] = {}
    for step in steps:
        name = plain = "step_" * (not step.id[0].isalpha()) + re.sub(
            r"[^a-z0-9]+", "_", step.id.lower()
        ).strip("_")
        number = 2
        while name in {LAST, *called.values()}:
            name, number = f"{plain}_{number}", number + 1
        called[step.id] = name
    return called
