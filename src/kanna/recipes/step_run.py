"""One step: run, or kept from an earlier run."""

from __future__ import annotations

import os
import shutil
import time
import traceback
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import kanna
from kanna._util import own_files
from kanna._util.atomic import write_json, write_text
from kanna._util.interruption import not_an_error
from kanna._util.progress import Progress
from kanna.errors import KannaError
from kanna.escaping import json_text
from kanna.recipes import records, verbs
from kanna.recipes.document import Value
from kanna.recipes.graph import StepInstance
from kanna.recipes.records import ErrorRecord, FileRecord, Plain, StepRecord
from kanna.recipes.verbs.base import ANEW, SAME, StepVerb
from kanna.report.write import plain

_OURS = frozenset({records.STEP, records.RESULT, records.STARTED})


class _VerbResult(Protocol):
    """What every verb returns."""

    @property
    def ok(self) -> bool: ...

    def headline(self) -> str: ...

    def to_dict(self) -> dict[str, Value]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCall:
    """A step that is about to run.

    Attributes:
        folder: Of the step.
        options: Of the verb, everything filled in.
        key: Of everything that decides what it makes.
    """

    instance: StepInstance
    verb: StepVerb
    folder: Path
    options: Mapping[str, Value]
    key: str

    @classmethod
    def of(
        cls,
        *,
        name: str,
        step: str,
        verb: str,
        key: str,
        folder: Path,
        options: Mapping[str, Value],
    ) -> StepCall:
        """The call in a process that was told these things of it.

        Args:
            name: Of its folder.
            step: Its name in the recipe.
            verb: The verb's name.
            key: Of everything that decides what it makes.
            folder: Where it writes.
            options: Of the verb.
        """
        instance = StepInstance(id=name, step=step, verb=verb, axes={}, options={}, upstream=())
        return cls(instance=instance, verb=verbs.get(verb), folder=folder, options=options, key=key)


def kept(folder: Path, key: str) -> StepRecord | None:
    """The record of a step that an earlier run ended well, and whose files are as it left them."""
    record = records.read_step(folder)
    if record is None or record.key != key or record.error is not None:
        return None
    if any(
        Path(path).is_absolute() or ".." in Path(path).parts for path in record.outputs.values()
    ):
        return None  # no run of ours wrote that
    return record if records.unchanged(record.files, folder) else None


def run(call: StepCall, progress: Progress, remark: Callable[[str], None]) -> StepRecord:
    """Run a step; an error of it is in the record.

    Raises:
        KeyboardInterrupt: It was interrupted; nothing is left under a final name but what an
            interrupted verb can use again.
    """
    started = time.perf_counter()
    with _working_folder(call) as work:
        try:
            with not_an_error():
                result = _call(call, work, progress, remark)
        except Exception as error:
            write_text(work / "error.txt", "".join(traceback.format_exception(error)))
            record = StepRecord(
                key=call.key, verb=call.instance.verb, seconds=0.0, error=problem(error)
            )
        else:
            record = _record(call, result, work)
        record.seconds = round(time.perf_counter() - started, 3)
        record.files = files_of(work)
        records.write(work / records.STEP, record)
    return record


def files_of(folder: Path) -> list[FileRecord]:
    """The files of a step, without those that the run wrote of it."""
    return [file for file in records.files_of([folder], folder) if file.name not in _OURS]


@contextmanager
def _working_folder(call: StepCall) -> Generator[Path]:
    """Where the step writes; what lies there has its final name when the block ends well."""
    final = call.folder
    if final.is_symlink() or not final.is_dir():
        own_files.remove(final)  # no step of ours is one
    if call.verb.resumes == ANEW:
        work = own_files.fresh_name(final)
        work.mkdir(parents=True)
        try:
            yield work
            own_files.put(work, final)
        finally:
            own_files.remove(work)
        return
    # The verb keeps what it has done by itself; the record says when all of it is there.
    started = final / records.STARTED
    if call.verb.resumes == SAME and (not started.is_file() or call.key not in started.read_text()):
        own_files.remove(final)
    if not final.exists():
        _begin_with_others(call, final)
    final.mkdir(parents=True, exist_ok=True)
    (final / records.STEP).unlink(missing_ok=True)
    (final / "error.txt").unlink(missing_ok=True)
    write_json(started, {"key": call.key})
    yield final


def _begin_with_others(call: StepCall, final: Path) -> None:
    """Give a new folder what another instance of the step has worked out: stages, statistics.

    Nothing is copied where a file can have two names; verbs replace files, and never change them.
    """
    name = call.instance.step
    others = [
        path
        for path in (final.parent.iterdir() if final.parent.is_dir() else ())
        if path.name.startswith(f"{name}-") and (path / records.STARTED).is_file()
    ]
    verb = call.verb.out
    if not others or not call.verb.shared or verb is None:
        return
    latest = max(others, key=lambda path: (path / records.STARTED).stat().st_mtime_ns)
    into = final / verb(call.instance.id, call.options)
    into.mkdir(parents=True)
    before = latest / latest.name
    for path in (path for pattern in call.verb.shared for path in before.glob(pattern)):
        if path.is_dir():
            shutil.copytree(path, into / path.name, copy_function=_link)
        else:
            _link(path, into / path.name)


def _link(before: str | Path, after: str | Path) -> None:
    try:
        os.link(before, after)
    except OSError:
        shutil.copy2(before, after)


def _call(
    call: StepCall, work: Path, progress: Progress, remark: Callable[[str], None]
) -> _VerbResult:
    more: dict[str, object] = {"progress": progress}
    if call.verb.out is not None:
        more[call.verb.writes] = work / call.verb.out(call.instance.id, call.options)
    if call.verb.remarks:
        more["remark"] = remark
    function: Callable[..., _VerbResult] = getattr(kanna, call.instance.verb)
    result = function(**call.options, **more)
    progress.finish()
    return result


def _record(call: StepCall, result: _VerbResult, work: Path) -> StepRecord:
    made: Value = moved(plain(result.to_dict()), str(work), str(call.folder))
    write_text(work / records.RESULT, json_text(made) + "\n")
    figures: dict[str, Plain] = {}
    for name, figure in call.verb.figures.items():
        value = figure(made)
        figures[name] = value if isinstance(value, str | int | float | bool) else None
    outputs: dict[str, str] = {}
    for name, output in call.verb.outputs.items():
        path = output.path(made) if output.path is not None else _written(call)
        if isinstance(path, str) and Path(path).is_relative_to(call.folder):
            outputs[name] = Path(path).relative_to(call.folder).as_posix()
    notes = made.get("notes") if isinstance(made, dict) else None
    error = None
    if not (result.ok if call.verb.holds is None else call.verb.holds(made)):
        unprovable = figures.get("gate") == "unprovable"
        error = ErrorRecord(
            found=result.headline() or "the result is not what it should be",
            todo=f"{records.RESULT} of the step has all of it",
            exit_code=3 if unprovable else 1,
        )
    return StepRecord(
        key=call.key,
        verb=call.instance.verb,
        seconds=0.0,
        outputs=outputs,
        figures=figures,
        notes=[note for note in notes if isinstance(note, str)] if isinstance(notes, list) else [],
        error=error,
    )


def _written(call: StepCall) -> str | None:
    """Where a step writes, once it has its final name."""
    if call.verb.out is None:
        return None
    return str(call.folder / call.verb.out(call.instance.id, call.options))


def moved(value: Value, before: str, after: str) -> Value:
    """A result whose paths are those that its files will have."""
    if isinstance(value, str):
        return value.replace(before, after) if before != after else value
    if isinstance(value, list):
        return [moved(item, before, after) for item in value]
    if isinstance(value, dict):
        return {key: moved(item, before, after) for key, item in value.items()}
    return value


def problem(error: Exception) -> ErrorRecord:
    """What to say of an error."""
    if isinstance(error, KannaError):
        return ErrorRecord(
            found=error.found,
            expected=error.expected,
            todo=error.todo,
            exit_code=error.exit_code,
        )
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return ErrorRecord(found=f"{where}{error.strerror or error}")
    if isinstance(error, ModuleNotFoundError):
        return ErrorRecord(
            found=f"the Python package {error.name!r} is not installed",
            todo="`kanna doctor` shows what is missing",
            exit_code=3,
        )
    if isinstance(error, MemoryError):
        return ErrorRecord(found="there is not enough memory", todo="close other programs")
    return ErrorRecord(
        found=f"{type(error).__name__}: {error}", todo="error.txt of the step has the traceback"
    )
