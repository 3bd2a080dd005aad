"""Azure ML: the YAML of a job or a pipeline, its environment and its data assets, for `az ml`.

The environment is built from a Dockerfile of ours; its version is a hash of what it is built from,
and that of a data asset a hash of its files, so that neither is made twice. The folder of the run
is the output of the job, which can be registered as a model. Where the extra is installed, every
file is held to the schemas of Azure's SDK. Where a subscription is named, the job is submitted to
the workspace, with the credentials that azure-identity finds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from kanna._util import extras
from kanna._util.digest import sha256
from kanna.errors import OutputError, UsageError
from kanna.escaping import shell_line, yaml_text
from kanna.executors.azureml_pipeline import SCHEMAS, PipelineParts, pipeline
from kanna.executors.azureml_sdk import EXTRA, hushed, sdk
from kanna.executors.azureml_workspace import AzureWorkspace, WorkspaceName
from kanna.executors.base import Executor, JobFiles, JobInput, JobOutcome, RecipeJob
from kanna.executors.commands import JobOptions, head, installing, running, without_expressions
from kanna.executors.settings import option

_LOADERS = {
    "environment.yml": "load_environment",
    "job.yml": "load_job",
}
"""What of the SDK reads a file; all others are data assets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AzureOptions(JobOptions):
    """Of a job of Azure ML."""

    subscription: str = option(
        "subscription of a workspace that the job is submitted to; by default nothing is", ""
    )
    resource_group: str = option("resource group; by default that of `az configure`", "")
    workspace: str = option("workspace; by default that of `az configure`", "")
    compute: str = option("cluster of the workspace; by default serverless machines", "")
    instance_type: str = option("kind of machine, where there is no cluster", "Standard_D8s_v5")
    experiment: str = option("experiment that the job belongs to", "kanna")
    minutes: int = option("minutes after which it is ended", 360)
    pipeline: bool = option("a pipeline with a job for each step, not one command job", False)
    fetch: bool = option(
        "bring the folder of the run here, once a job that was submitted has completed", False
    )
    register: str = option("name of a model that the folder of the run is registered as", "")

    def __post_init__(self) -> None:
        if self.subscription and not (self.resource_group and self.workspace):
            raise UsageError(
                "a subscription alone names no workspace",
                expected="subscription, resource_group and workspace",
                todo="--on-set resource_group=NAME --on-set workspace=NAME",
            )


def files(job: RecipeJob, options: AzureOptions) -> JobFiles:
    """The job, its environment, and a data asset for each file or folder that it reads."""
    environment, texts, copies = _environment(job, options)
    assets = {
        name: _asset(job, name, path) for one in job.inputs for name, path in _named(one).items()
    }
    for name, asset in assets.items():
        texts[f"data/{name}.yml"] = head(job, "azureml") + yaml_text(asset, width=100)
    for path in job.files:
        copies[f"code/{path.relative_to(job.root).as_posix()}"] = path
    if options.pipeline:
        about, components = _pipeline(job, options, environment, assets)
        for name, component in components.items():
            texts[name] = head(job, "azureml") + yaml_text(component, width=100)
    else:
        about = _job(job, options, environment, assets)
    texts["job.yml"] = head(job, "azureml") + yaml_text(about, width=100)
    where: list[str] = []
    for flag, value in (
        ("-g", options.resource_group),
        ("-w", options.workspace),
        ("--subscription", options.subscription),
    ):
        where += [flag, value] if value else []
    commands = [
        shell_line(["az", "ml", kind, "create", "-f", name, *where])
        for kind, name in (
            ("environment", "environment.yml"),
            *(("data", f"data/{name}.yml") for name in assets),
        )
    ]
    commands.append(shell_line(["az", "ml", "job", "create", "-f", "job.yml", "--stream", *where]))
    return JobFiles(
        texts=texts,
        copies=copies,
        commands=commands,
        notes=["the commands belong in the folder of these files, after `az login`"],
        place=Path(f"kanna-{job.name}-azureml"),
    )


def _environment(
    job: RecipeJob, options: AzureOptions
) -> tuple[str, dict[str, str], dict[str, Path]]:
    """The name and version of the environment, and its files."""
    copies: dict[str, Path] = {}
    lines = [f"FROM python:{options.python}-slim-bookworm"]
    wheel, made_from = Path(options.install), ""
    if options.install.endswith(".whl") and wheel.is_file():
        copies[f"environment/wheels/{wheel.name}"] = wheel.absolute()
        made_from = sha256(wheel)
        lines.append(f"COPY wheels/{wheel.name} /wheels/")
        options = replace(options, install=f"/wheels/{wheel.name}")
    install = installing(job, options, "azureml").replace("install", "install --no-cache-dir", 1)
    lines += [
        "RUN apt-get update \\",
        " && apt-get install -y --no-install-recommends libgomp1 \\",
        " && rm -rf /var/lib/apt/lists/*",
        f"RUN {install}",
        "ENV PYTHONUNBUFFERED=1",
    ]
    dockerfile = head(job, "azureml") + "\n".join(lines) + "\n"
    version = hashlib.sha256(("\n".join(lines) + made_from).encode()).hexdigest()[:12]
    name = f"kanna-{job.name}"
    about = {
        "$schema": f"{SCHEMAS}/environment.schema.json",
        "name": name,
        "version": version,
        "description": f"kanna {job.version}, for {job.recipe.name}",
        "build": {"path": "environment", "dockerfile_path": "Dockerfile"},
    }
    texts = {
        "environment/Dockerfile": dockerfile,
        "environment.yml": head(job, "azureml") + yaml_text(about, width=100),
    }
    return f"azureml:{name}:{version}", texts, copies


def _named(one: JobInput) -> dict[str, Path]:
    """The files of a variable by the names of inputs."""
    if not one.several:
        return {one.variable: one.paths[0]}
    return {f"{one.variable}_{number}": path for number, path in enumerate(one.paths)}


def _asset(job: RecipeJob, name: str, path: Path) -> dict[str, Any]:
    """A data asset of a file or folder."""
    whole = hashlib.sha256()
    inside = sorted(path.rglob("*")) if path.is_dir() else [path]
    for file in inside:
        if file.is_file():
            whole.update(f"{file.relative_to(path.parent)}\0{sha256(file)}\n".encode())
    return {
        "$schema": f"{SCHEMAS}/data.schema.json",
        "name": f"kanna-{job.name}-{name}",
        "version": whole.hexdigest()[:12],
        "type": "uri_folder" if path.is_dir() else "uri_file",
        "path": str(path.resolve()),
    }


def _job(
    job: RecipeJob, options: AzureOptions, environment: str, assets: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    def place(one: JobInput, path: Path) -> str:
        return f"INPUT:{next(name for name, file in _named(one).items() if file == path)}:"

    recipe = job.recipe.relative_to(job.root).as_posix()
    command = running(job, recipe, "OUTPUT:run:", place)
    without_expressions({"the name of the recipe": job.title, "a path or value": command})
    for name in assets:
        command = command.replace(f"INPUT:{name}:", f"${{{{inputs.{name}}}}}")
    about: dict[str, Any] = {
        "$schema": f"{SCHEMAS}/commandJob.schema.json",
        "type": "command",
        "code": "code",
        "command": command.replace("OUTPUT:run:", "${{outputs.run}}", 1),
        "environment": environment,
        **_common(job, options, assets),
        **_machine(options),
    }
    if options.compute:
        about["compute"] = f"azureml:{options.compute}"
    return {name: value for name, value in about.items() if value != {}}


def _pipeline(
    job: RecipeJob, options: AzureOptions, environment: str, assets: dict[str, dict[str, Any]]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A pipeline, and its components by file."""
    without_expressions({"the name of the recipe": job.title})
    parts = PipelineParts(
        assets=assets,
        named={one.variable: _named(one) for one in job.inputs},
        environment=environment,
        node=_machine(options),
    )
    jobs, components = pipeline(job, parts)
    about: dict[str, Any] = {
        "$schema": f"{SCHEMAS}/pipelineJob.schema.json",
        "type": "pipeline",
        **_common(job, options, assets),
        "settings": {
            "default_compute": f"azureml:{options.compute or 'serverless'}",
            "continue_on_step_failure": True,
        },
        "jobs": jobs,
    }
    return {name: value for name, value in about.items() if value != {}}, components


def _machine(options: AzureOptions) -> dict[str, Any]:
    """What a job says of where it runs, and for how long."""
    about: dict[str, Any] = {"limits": {"timeout": options.minutes * 60}}
    if not options.compute:
        about["resources"] = {"instance_type": options.instance_type, "instance_count": 1}
    return about


def _common(
    job: RecipeJob, options: AzureOptions, assets: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """What a command job and a pipeline have in common."""
    output: dict[str, Any] = {"type": "uri_folder", "mode": "upload"}
    if options.register:
        output |= {"type": "custom_model", "name": options.register}
    return {
        "display_name": job.title,
        "experiment_name": options.experiment,
        "inputs": {
            name: {
                "type": asset["type"],
                "path": f"azureml:{asset['name']}:{asset['version']}",
                # Files of models are mapped, and a mount would read them again and again.
                "mode": "download",
            }
            for name, asset in assets.items()
        },
        "outputs": {"run": output},
        "tags": {"kanna": job.version, "recipe": job.recipe.name},
    }


def check(paths: Sequence[Path]) -> list[str]:
    """Hold files to the schemas of the SDK, where it is here; returns what to tell of it.

    Raises:
        OutputError: The SDK refuses one.
    """
    if missing := extras.missing(EXTRA):
        install = extras.command(EXTRA)
        return [f"not held to Azure's schemas, for lack of {', '.join(missing)}: {install}"]
    reader = sdk()
    for path in paths:
        if path.suffix != ".yml":
            continue
        components = path.parent.name == "components"
        loader = "load_component" if components else _LOADERS.get(path.name, "load_data")
        try:
            with hushed():
                getattr(reader, loader)(str(path))
        except Exception as error:  # of many classes
            why = " ".join(str(error).split())[:300]
            raise OutputError(f"Azure's SDK refuses {path}: {why}") from error
    return [f"held to the schemas of azure-ai-ml {reader.__version__}"]


def submit(
    options: AzureOptions, remark: Callable[[str], None]
) -> Callable[[Path], JobOutcome] | None:
    """Connect to the workspace that options name; returns what runs a job there."""
    if not options.subscription:
        return None
    name = WorkspaceName(
        subscription=options.subscription,
        resource_group=options.resource_group,
        workspace=options.workspace,
    )
    return partial(AzureWorkspace(name, remark).run, fetch=options.fetch)


EXECUTOR = Executor(
    summary="Azure ML: a command job or a pipeline, its environment and data assets, for `az ml`",
    options=AzureOptions,
    files=files,
    check=check,
    submit=submit,
)
