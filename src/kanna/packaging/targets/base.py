"""The record of a target: where a packaged artefact runs, and the files that deploy it there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kanna.packaging.artefact import Artefact
from kanna.packaging.libraries import NpmLibrary, none
from kanna.packaging.service import Service
from kanna.serving import engines


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One target.

    Attributes:
        title: What it is called in a sentence, such as `a container image`.
        summary: What it is, in a line.
        files: Returns the text of each file by its path in the package.
        usage: Returns the shell lines that start the service, to be run in the package's folder.
        only: Kinds of artefacts it can run; () for all that an engine serves.
        needs: Targets whose files it uses.
        installs: Whether kanna is installed where it runs, from the wheel in the package.
        serves: Whether it answers requests over a network; without it, one person asks at a time.
        libraries: Returns what the package takes along to run the model.
        arranges: Lays the files of several artefacts of one model out; None: it takes one.
        loads: Has the runtime load a package that is written; returns notes.
    """

    title: str
    summary: str
    files: Callable[[Service], dict[str, str]]
    usage: Callable[[Service], list[str]]
    only: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    installs: bool = True
    serves: bool = True
    libraries: Callable[[Service], Sequence[NpmLibrary]] = none
    arranges: Callable[[Sequence[Artefact]], Artefact] | None = None
    loads: Callable[[Path], Sequence[str]] | None = None

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of artefacts it can run."""
        return self.only or engines.names()
