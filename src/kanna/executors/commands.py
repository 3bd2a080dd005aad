"""Command lines of a job: how kanna gets to a machine, and the call of `kanna run` there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from kanna import __version__
from kanna._util import distribution
from kanna.errors import UsageError
from kanna.escaping import json_text, shell_line, shell_word
from kanna.executors.base import JobInput, RecipeJob
from kanna.executors.settings import option

HEAD = "# Written by kanna"
"""How a file of ours begins; one that does may be written again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOptions:
    """What every machine elsewhere needs to know."""

    install: str = option(
        "what pip installs there as kanna: the URL of a wheel or of a repository (git+https://…), "
        "or a path there; by default what this kanna was installed from, where that is a URL",
        "",
    )
    extras: str = option(
        "extras of kanna to install there, by comma; by default what the steps need", ""
    )
    python: str = option("version of Python there", "3.12")


def head(job: RecipeJob, executor: str) -> str:
    """The first line of a file: by what it was written."""
    recipe = job.recipe.name if job.recipe.name.isprintable() else job.name
    return f"{HEAD} {job.version}: kanna run {shell_word(recipe)} --on {executor}\n"


def installing(job: RecipeJob, options: JobOptions, executor: str) -> str:
    """The shell line that installs kanna.

    Raises:
        UsageError: It is not known from where.
    """
    where = options.install or _origin()
    if not where:
        raise UsageError(
            "it is not known where a machine elsewhere gets kanna from",
            expected=f"the URL of a wheel of kanna {__version__} or of its repository: kanna is on "
            "no package index",
            todo=f"--on {executor} --on-set install=URL",
        )
    extras = options.extras or ",".join(job.extras)
    brackets = f"[{extras}]" if extras else ""
    if "://" in where:
        where = f"{distribution.NAME}{brackets} @ {where}"
    else:
        where = f"{where}{brackets}"
    return f"python -m pip install {shell_word(where)}"


def _origin() -> str:
    installed = distribution.installed()
    url = distribution.origin(installed) if installed else ""
    return url if url.startswith("https://") else ""


def running(job: RecipeJob, recipe: str, out: str, place: Callable[[JobInput, Path], str]) -> str:
    """The shell line that runs the recipe.

    Args:
        job: What is run.
        recipe: Path of the recipe there.
        out: Path of the folder of the run there.
        place: Where an input lies there.
    """
    words: list[str] = ["kanna", "run", recipe, "-o", out]
    for one in job.inputs:
        paths = [place(one, path) for path in one.paths]
        # As it stands in a file: a path that looks like a number is a text.
        value = json_text(paths if one.several else paths[0], indent=None)
        words += ["--set", f"{one.variable}={value}"]
    for name, value in job.values.items():
        words += ["--set", f"{name}={value}"]
    return shell_line(words)


def below(path: Path, root: Path, what: str) -> str:
    """The path from a folder, as POSIX has it.

    Raises:
        UsageError: It is not in the folder.
    """
    for file, folder in ((path, root), (path.resolve(), root.resolve())):
        if file.is_relative_to(folder):
            return file.relative_to(folder).as_posix()
    raise UsageError(
        f"{path} is outside of {root}",
        expected=f"everything that the recipe reads in {what}, or on the hub",
        todo="move it there, or give its variable another value with --set",
    )


def without_expressions(texts: Mapping[str, str]) -> None:
    """Refuse `${{` in what a service would evaluate.

    Args:
        texts: What is written into a file of the service, by what it is.

    Raises:
        UsageError: One holds an expression of the service.
    """
    for what, text in texts.items():
        if "${{" in text:
            raise UsageError(
                f"{what} has ${{{{ in it, which the service would evaluate: {text[:80]!r}",
                expected="a plain text",
                todo="rename it",
            )
