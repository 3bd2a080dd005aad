"""GitLab CI: a file that `.gitlab-ci.yml` includes, with a job that runs the recipe.

Steps that an earlier pipeline made are kept: the folder of the run is in the cache of the job. It
is an artifact of every pipeline, too, whatever became of its steps.
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
class GitLabOptions(JobOptions):
    """Of a job of GitLab CI."""

    image: str = option("container image that it runs in; by default python:VERSION", "")
    tags: list[str] = option("tags of the runner", default_factory=list[str])
    stage: str = option("stage of the pipeline", "test")
    minutes: int = option("minutes after which it is ended", 360)
    keep_days: int = option("days for which the folder of a run is kept", 30)


def files(job: RecipeJob, options: GitLabOptions) -> JobFiles:
    """The file to include."""
    here = repository.of(job, options, "gitlab")
    name = f"kanna-{job.name}"
    path = f".gitlab/{name}.yml"
    changes = [p for one in here.paths for p in (one, f"{one}/**/*")]
    run: dict[str, Any] = {
        "stage": options.stage,
        "image": options.image or f"python:{options.python}",
        "timeout": f"{options.minutes} minutes",
        "interruptible": True,
        # Two pipelines at once would not see each other's steps.
        "resource_group": name,
        "rules": [
            {"if": '$CI_PIPELINE_SOURCE == "web"'},
            {"if": '$CI_PIPELINE_SOURCE == "push"', "changes": changes},
        ],
        "variables": {"PIP_CACHE_DIR": "$CI_PROJECT_DIR/.cache/pip"},
        "cache": {
            "key": name,
            "paths": [f"{job.folder}/", ".cache/pip/"],
            "when": "always",
        },
        "before_script": [here.install],
        "script": [here.run],
        "artifacts": {
            "name": job.folder,
            "paths": [f"{job.folder}/"],
            "when": "always",
            "expire_in": f"{options.keep_days} days",
        },
    }
    if options.tags:
        run["tags"] = list(options.tags)
    return JobFiles(
        texts={path: head(job, "gitlab") + yaml_text({name: run}, width=100)},
        commands=[f"git add {path} .gitlab-ci.yml && git commit && git push"],
        notes=[f".gitlab-ci.yml includes it with these lines: include: [{{local: {path}}}]"]
        + here.notes,
        place=here.root,
    )


EXECUTOR = Executor(
    summary="GitLab CI: a job for the repository that the recipe is in",
    options=GitLabOptions,
    files=files,
)
