"""The record of an executor: where the steps of a recipe run."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kanna.executors.pools import StepPool


@dataclass(frozen=True, slots=True, kw_only=True)
class JobInput:
    """A variable of a recipe that names files or models of this machine.

    Attributes:
        variable: Its name.
        paths: Where they lie, absolute.
        several: Whether its value is a list.
        changed: Whether it was set from outside.
    """

    variable: str
    paths: tuple[Path, ...]
    several: bool = False
    changed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStep:
    """A step of a recipe, with the values of its axes.

    Attributes:
        needs: Ids of those that end before it begins.
        variables: Those that name files which it reads.
    """

    id: str
    needs: tuple[str, ...]
    variables: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeJob:
    """A recipe that runs elsewhere as a whole, by one call of `kanna run`.

    Attributes:
        name: Of letters, digits and dashes.
        title: As the recipe calls itself.
        recipe: The file that was named, absolute.
        files: It, what it includes, and what its steps name without a variable.
        inputs: Variables that name something on this machine.
        values: Other variables that were set from outside, as YAML.
        extras: Extras of kanna that its steps need.
        version: Of kanna.
        steps: Its steps in order; none where a search decides what runs.
        axes: Variables whose files a matrix goes through.
    """

    name: str
    title: str
    recipe: Path
    files: tuple[Path, ...]
    inputs: tuple[JobInput, ...] = ()
    values: Mapping[str, str] = field(default_factory=dict[str, str])
    extras: tuple[str, ...] = ()
    version: str = ""
    steps: tuple[JobStep, ...] = ()
    axes: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        """Name of the folder of its run."""
        return f"{self.name}-run"

    @property
    def root(self) -> Path:
        """The deepest folder that holds all of its files."""
        return Path(os.path.commonpath([path.parent for path in self.files]))


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFiles:
    """What an executor writes of a job.

    Attributes:
        texts: Of new files, by their paths in the folder.
        copies: Files of this machine, by their paths in the folder.
        commands: Shell lines that start it.
        notes: What is left to the user.
        place: The folder that they belong in; None: the current one.
    """

    texts: Mapping[str, str]
    copies: Mapping[str, Path] = field(default_factory=dict[str, Path])
    commands: Sequence[str] = ()
    notes: Sequence[str] = ()
    place: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOutcome:
    """What became of a job that a service has run.

    Attributes:
        name: Of the job, there.
        state: As the service calls it.
        ok: Whether it did what it should.
        url: Its page.
        why: What the service says of a failure.
        todo: What can be done about it.
        log: The last lines of a job that failed.
        commands: Shell lines that fetch what it made.
        folder: Where the folder of its run is, if it was fetched.
    """

    name: str
    state: str
    ok: bool
    url: str = ""
    why: str = ""
    todo: str = ""
    log: Sequence[str] = ()
    commands: Sequence[str] = ()
    folder: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Executor:
    """Where a recipe runs.

    Attributes:
        summary: What it is, in a line.
        options: A dataclass of what can be set; a field has its description as metadata `about`.
        extra: What must be installed for it, "" for the base install.
        files: Returns what to write of a job that others start; None: it runs the steps itself.
        check: Checks the files that were written, and returns what to tell of it.
        submit: Connects to the service that its options name, and returns what runs the job whose
            files are in a folder; returns None where they name none, and the job is left to others.
        pool: Opens where single steps run, given its options and whom to tell of losses; None:
            they run here.
    """

    summary: str
    options: type
    extra: str = ""
    files: Callable[[RecipeJob, Any], JobFiles] | None = None
    check: Callable[[Sequence[Path]], list[str]] | None = None
    submit: Callable[[Any, Callable[[str], None]], Callable[[Path], JobOutcome] | None] | None = (
        None
    )
    pool: Callable[[Any, Callable[[str], None]], StepPool] | None = None
