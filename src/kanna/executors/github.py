"""GitHub Actions: a workflow that runs the recipe in a checkout of its repository.

Steps that an earlier run of the workflow made are kept: the folder of the run is in the cache of
Actions. The folder is an artifact of every run, whatever became of its steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kanna.escaping import yaml_text
from kanna.executors import repository
from kanna.executors.base import Executor, JobFiles, RecipeJob
from kanna.executors.commands import JobOptions, head
from kanna.executors.settings import option


@dataclass(frozen=True, slots=True, kw_only=True)
class GitHubOptions(JobOptions):
    """Of a workflow of GitHub Actions."""

    runner: str = option("label of the machine that runs it", "ubuntu-latest")
    minutes: int = option("minutes after which it is ended", 360)
    on_push: bool = option("run when what it reads is pushed, too, not only by hand", True)
    keep_days: int = option("days for which the folder of a run is kept", 30)


def files(job: RecipeJob, options: GitHubOptions) -> JobFiles:
    """The workflow."""
    here = repository.of(job, options, "github")
    name = f"kanna-{job.name}"
    path = f".github/workflows/{name}.yml"
    workflow: dict[str, Any] = {
        "name": job.title,
        "on": {"workflow_dispatch": {}},
        "permissions": {"contents": "read"},
        # Two runs at once would not see each other's steps.
        "concurrency": {"group": name},
        "jobs": {"run": _job(job, options, here)},
    }
    if options.on_push:
        # A path that is a folder, and a file of that name.
        workflow["on"]["push"] = {"paths": [p for one in here.paths for p in (one, f"{one}/**")]}
    return JobFiles(
        texts={path: head(job, "github") + yaml_text(workflow, width=100)},
        commands=[f"git add {path} && git commit && git push", f"gh workflow run {name}.yml"],
        notes=here.notes,
        place=here.root,
    )


def _job(job: RecipeJob, options: GitHubOptions, here: repository.RepositoryJob) -> dict[str, Any]:
    key = f"kanna-{job.name}-${{{{ runner.os }}}}-"
    return {
        "runs-on": options.runner,
        "timeout-minutes": options.minutes,
        "steps": [
            {"uses": "actions/checkout@v4", "with": {"lfs": True}},
            {"uses": "actions/setup-python@v5", "with": {"python-version": options.python}},
            {"name": "Install kanna", "run": here.install},
            {
                "name": "Bring back the steps of earlier runs",
                "uses": "actions/cache/restore@v4",
                "with": {
                    "path": job.folder,
                    "key": key + "${{ github.run_id }}-${{ github.run_attempt }}",
                    "restore-keys": key,
                },
            },
            {"name": "Run the recipe", "run": here.run},
            {
                "name": "Keep the steps",
                "if": "always()",
                "uses": "actions/cache/save@v4",
                "with": {
                    "path": job.folder,
                    "key": key + "${{ github.run_id }}-${{ github.run_attempt }}",
                },
            },
            {
                "name": "Upload the folder of the run",
                "if": "always()",
                "uses": "actions/upload-artifact@v4",
                "with": {
                    "name": job.folder,
                    "path": job.folder,
                    "if-no-files-found": "warn",
                    "retention-days": options.keep_days,
                },
            },
        ],
    }


EXECUTOR = Executor(
    summary="GitHub Actions: a workflow for the repository that the recipe is in",
    options=GitHubOptions,
    files=files,
)
