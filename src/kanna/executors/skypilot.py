"""SkyPilot: a task file for `sky launch` and `sky jobs launch`, on any cloud that it knows.

Inputs and the recipe are copied to the machine. With a bucket the folder of the run lies in it, and
a managed job goes on after its machine was taken away: steps that were done are kept.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kanna.errors import UsageError
from kanna.escaping import shell_line, yaml_text
from kanna.executors.base import Executor, JobFiles, JobInput, RecipeJob
from kanna.executors.commands import JobOptions, head, installing, running
from kanna.executors.settings import option

INPUTS, RECIPE, BUCKET, WHEELS = (
    f"/kanna/{name}" for name in ("inputs", "recipe", "out", "wheels")
)
STORES = {
    "s3": "s3",
    "gs": "gcs",
    "azure": "azure",
    "r2": "r2",
    "cos": "ibm",
    "oci": "oci",
    "nebius": "nebius",
}
"""Schemes of buckets, and what SkyPilot calls their stores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SkyPilotOptions(JobOptions):
    """Of a task of SkyPilot."""

    infra: str = option("where it runs, such as aws/us-east-1 or k8s; by default the cheapest", "")
    cpus: str = option("cores, such as 8+", "4+")
    memory: str = option("gigabytes of memory, such as 32+", "16+")
    accelerators: str = option("GPUs, such as L4:1", "")
    disk_gb: int = option("gigabytes of disk", 256)
    spot: bool = option("take machines that may be taken away", False)
    bucket: str = option(f"bucket for the folder of the run: {'://…, '.join(STORES)}://…", "")


def _place(one: JobInput, path: Path) -> str:
    # Several files of a variable may have one name.
    number = f"{one.paths.index(path)}/" if one.several else ""
    return f"{INPUTS}/{one.variable}/{number}{path.name}"


def files(job: RecipeJob, options: SkyPilotOptions) -> JobFiles:
    """The task file."""
    mounts: dict[str, Any] = {
        f"{RECIPE}/{path.relative_to(job.root).as_posix()}": str(path) for path in job.files
    }
    mounts |= {_place(one, path): str(path) for one in job.inputs for path in one.paths}
    wheel = Path(options.install)
    if options.install.endswith(".whl") and wheel.is_file():
        mounts[f"{WHEELS}/{wheel.name}"] = str(wheel.absolute())
        options = replace(options, install=f"{WHEELS}/{wheel.name}")
    out = job.folder
    if options.bucket:
        store, _, name = options.bucket.partition("://")
        if store not in STORES or not name or "/" in name:
            raise UsageError(
                f"{options.bucket!r} is no bucket", expected=f"{', '.join(STORES)}, then ://NAME"
            )
        mounts[BUCKET] = {"name": name, "store": STORES[store], "mode": "MOUNT"}
        out = f"{BUCKET}/{job.folder}"
    resources: dict[str, Any] = {
        "infra": options.infra,
        "cpus": options.cpus,
        "memory": options.memory,
        "accelerators": options.accelerators,
        "disk_size": options.disk_gb,
        "use_spot": options.spot,
    }
    recipe = f"{RECIPE}/{job.recipe.relative_to(job.root).as_posix()}"
    task = {
        "name": f"kanna-{job.name}",
        "resources": {name: value for name, value in resources.items() if value not in ("", False)},
        "file_mounts": mounts,
        "setup": installing(job, options, "skypilot"),
        "run": f"cd ~ && {running(job, recipe, out, _place)}",
    }
    path, name = f"kanna-{job.name}.sky.yaml", f"kanna-{job.name}"
    commands = [shell_line(["sky", "launch", "-c", name, path])]
    if options.bucket:
        commands.append(shell_line(["sky", "jobs", "launch", "-n", name, path]))
    else:
        commands += [f"rsync -a {name}:{job.folder} .", shell_line(["sky", "down", name])]
    return JobFiles(
        texts={path: head(job, "skypilot") + yaml_text(task, width=100)}, commands=commands
    )


EXECUTOR = Executor(
    summary="SkyPilot: a task file for machines of any cloud",
    options=SkyPilotOptions,
    files=files,
)
