"""A recipe in a repository, whose own service runs it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from kanna.errors import UsageError
from kanna.executors.base import RecipeJob
from kanna.executors.commands import JobOptions, below, installing, running, without_expressions


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryJob:
    """What a service does in a checkout of a repository.

    Attributes:
        root: The repository.
        paths: What the job reads of it.
        install: The shell line that installs kanna.
        run: The shell line that runs the recipe.
        notes: What is left to the user.
    """

    root: Path
    paths: list[str]
    install: str
    run: str
    notes: list[str]


def of(job: RecipeJob, options: JobOptions, executor: str) -> RepositoryJob:
    """The job in the repository that the recipe is in.

    Raises:
        UsageError: It is in none, reads something outside, or it is not known how kanna is
            installed there.
    """
    parents = (job.recipe.parent, *job.recipe.parent.parents)
    root = next((folder for folder in parents if (folder / ".git").exists()), None)
    if root is None:
        raise UsageError(
            f"{job.recipe} is in no repository",
            expected=f"a recipe in a repository of git, which {executor} checks out",
            todo="git init, or run it elsewhere (kanna components executors)",
        )
    what = f"the repository {root.name}"
    needed = [*job.files, *(path for one in job.inputs for path in one.paths)]
    paths = list(dict.fromkeys(below(path, root, what) for path in needed))
    install = installing(job, options, executor)
    recipe = below(job.recipe, root, what)
    # The others are named relative to the recipe, as here.
    changed = replace(job, inputs=tuple(one for one in job.inputs if one.changed))
    run = running(changed, recipe, job.folder, lambda _, path: below(path, root, what))
    without_expressions({"the name of the recipe": job.title, "a path or value": run + install})
    return RepositoryJob(
        root=root,
        paths=paths,
        install=install,
        run=run,
        notes=[f"what it reads must be in the repository: {', '.join(paths)}"],
    )
