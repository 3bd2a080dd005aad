"""What a run writes of itself: `manifest.json`, and `step.json` in the folder of every step."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from kanna._util.atomic import write_text

MANIFEST, STEP, RESULT, STARTED = "manifest.json", "step.json", "result.json", "started.json"
DONE, KEPT, FAILED, SKIPPED, STOPPED, BLOCKED, PENDING = (
    "done",
    "kept",
    "failed",
    "skipped",
    "stopped",
    "blocked",
    "pending",
)
"""States of a step: run, kept from an earlier run, failed, `when` was false, after `stop_when`,
what it needs failed, not reached."""
Plain = str | int | float | bool | None
R = TypeVar("R", bound=BaseModel)


class _Record(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)


class FileRecord(_Record):
    """A file as it was; its hash where that is known."""

    name: str
    bytes: int
    mtime_ns: int
    sha256: str = ""


class ErrorRecord(_Record):
    """Why a step failed."""

    found: str
    expected: str = ""
    todo: str = ""
    exit_code: int = 1


class InputRecord(_Record):
    """A file or folder from outside that steps read.

    Attributes:
        given: As the recipe names it, made absolute.
        path: Where it is on this machine.
        sha256: Of all its files together.
    """

    given: str
    path: str
    sha256: str
    files: list[FileRecord]


class StepRecord(_Record):
    """A step that ended.

    Attributes:
        key: Of everything that decides what it makes.
        outputs: Path of every output, from the folder of the step.
        files: Every file in that folder.
    """

    key: str
    verb: str
    seconds: float
    outputs: dict[str, str] = {}
    figures: dict[str, Plain] = {}
    notes: list[str] = []
    files: list[FileRecord] = []
    error: ErrorRecord | None = None


class StepState(_Record):
    """What became of a step in a run.

    Attributes:
        stops: Whether its `stop_when` held.
    """

    id: str
    step: str
    verb: str
    axes: dict[str, Plain] = {}
    state: str = PENDING
    key: str = ""
    seconds: float = 0.0
    figures: dict[str, Plain] = {}
    outputs: dict[str, str] = {}
    why: str = ""
    stops: bool = False
    notes: list[str] = []
    error: ErrorRecord | None = None


class TrialRecord(_Record):
    """One combination that a search tried.

    Attributes:
        state: `done`, `failed`, or `skipped` where a goal was not measured.
        goals: The figures that are wanted, by name.
        feasible: Whether it met the constraints.
        best: Whether no other feasible one is better in every goal.
    """

    number: int
    values: dict[str, Plain]
    state: str
    goals: dict[str, Plain] = {}
    feasible: bool = True
    best: bool = False
    steps: list[str] = []


class Manifest(_Record):
    """A run.

    Attributes:
        folder: Where it was made.
        validated: Of the graph that was checked last, so that it is not checked again.
        recipe_text: Every file of the recipe by name, the one that was named last.
        outputs: Of the recipe, by name: paths from the run's folder.
        files: Every file under an output, with its hash.
    """

    version: str
    recipe: str
    name: str
    folder: str = ""
    about: str = ""
    started: str
    seconds: float = 0.0
    finished: bool = False
    validated: str = ""
    variables: dict[str, Plain | list[Plain]] = {}
    changed: dict[str, Plain | list[Plain]] = {}
    recipe_text: dict[str, str] = {}
    environment: dict[str, str] = {}
    inputs: list[InputRecord] = []
    steps: list[StepState] = []
    trials: list[TrialRecord] = []
    importance: dict[str, float] = {}
    outputs: dict[str, list[str]] = {}
    files: list[FileRecord] = []


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a run's folder; None where there is none that can be read."""
    return _read(folder / MANIFEST, Manifest)


def read_step(folder: Path) -> StepRecord | None:
    """The record of a step's folder; None where the step did not end."""
    return _read(folder / STEP, StepRecord)


def write(path: Path, record: BaseModel) -> None:
    """Write a record, whole or not at all."""
    write_text(path, record.model_dump_json(indent=1) + "\n")


def _read(path: Path, model: type[R]) -> R | None:
    try:
        return model.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def files_of(paths: Iterable[Path], below: Path) -> list[FileRecord]:
    """Every file at or below some paths, by its name from `below`, as it is now."""
    records: dict[str, FileRecord] = {}
    for path in paths:
        inside = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in inside:
            if file.is_file():
                about, name = file.stat(), file.relative_to(below).as_posix()
                records[name] = FileRecord(
                    name=name, bytes=about.st_size, mtime_ns=about.st_mtime_ns
                )
    return list(records.values())


def unchanged(files: Iterable[FileRecord], below: Path) -> bool:
    """Whether every file is as its record says, by size and time."""
    for record in files:
        try:
            about = (below / record.name).stat()
        except OSError:
            return False
        if (about.st_size, about.st_mtime_ns) != (record.bytes, record.mtime_ns):
            return False
    return True
