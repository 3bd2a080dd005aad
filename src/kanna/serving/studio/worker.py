"""The process of one job: `python -m kanna.serving.studio.worker FOLDER`.

It runs the public verb, and says in files how far it is and what came out. When its standard
input ends, the job was cancelled or the studio is gone: the verb is interrupted as Ctrl-C does it,
so that nothing half-written stays.
"""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import kanna
from kanna._util.atomic import write_json
from kanna._util.interruption import ending_orderly
from kanna.errors import KannaError
from kanna.report.write import plain
from kanna.serving.studio.exports import call
from kanna.serving.studio.jobs import StudioJob, read_object
from kanna.sources import locate

_EVERY = 0.25
"""Seconds between two writes of the progress."""
_PATIENCE = 8.0
"""Seconds that an interrupted verb may take to clean up."""
INTERRUPTED = 130
_TAKES_REMARKS = ("optimize", "compare")


class ProgressFile:
    """Progress of a verb, in a file that others read.

    Args:
        path: Of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._began = self._written = time.monotonic()
        self._stage: dict[str, Any] = {}
        self._steps: list[dict[str, Any]] = []
        self._remarks: list[str] = []

    def start(self, stage: str, total: int | None, unit: str = "bytes") -> None:
        """Begin a stage of `total` units."""
        with self._lock:
            self._end_stage()
            self._began = time.monotonic()
            self._stage = {"stage": stage, "done": 0, "total": total, "unit": unit, "detail": ""}
            self._write()

    def advance(self, amount: int, detail: str = "") -> None:
        """Count units that are done."""
        with self._lock:
            if not self._stage:
                return
            self._stage["done"] += amount
            self._stage["detail"] = detail or self._stage["detail"]
            if time.monotonic() - self._written >= _EVERY:
                self._write()

    def finish(self) -> None:
        """End the stage."""
        with self._lock:
            self._end_stage()
            self._write()

    def remark(self, text: str) -> None:
        """A sentence about a finished step."""
        with self._lock:
            self._remarks.append(text)
            self._write()

    def _end_stage(self) -> None:
        if self._stage:
            seconds = round(time.monotonic() - self._began, 2)
            self._steps.append({"stage": self._stage["stage"], "seconds": seconds})
            self._stage = {}

    def _write(self) -> None:
        self._written = time.monotonic()
        seconds = round(self._written - self._began, 2)
        state = {**self._stage, "seconds": seconds, "steps": self._steps, "remarks": self._remarks}
        # A reader that holds the file open must not end a job, as it could on Windows.
        with suppress(PermissionError):
            write_json(self.path, state)


def _interrupt() -> None:
    """Interrupt the main thread, and end the process if that does not."""
    ident = threading.main_thread().ident
    if hasattr(signal, "pthread_kill") and ident is not None:
        signal.pthread_kill(ident, signal.SIGINT)
    else:
        _thread.interrupt_main()
    time.sleep(_PATIENCE)
    os._exit(INTERRUPTED)


def _watch_input() -> None:
    """Interrupt the main thread at the end of standard input."""
    with suppress(OSError, ValueError):
        while os.read(0, 1024):
            pass
    _interrupt()


def _run(job: StudioJob, folder: Path) -> dict[str, Any]:
    progress = ProgressFile(folder / "progress.json")
    task = call(job, folder / "out")
    (folder / "out").mkdir(exist_ok=True)
    more: dict[str, Any] = {"progress": progress}
    if job.verb in _TAKES_REMARKS:
        more["remark"] = progress.remark
    else:
        more["overwrite"] = True  # by an earlier attempt of this job
    verb: Callable[..., Any] = getattr(kanna, task.verb)
    result = verb(task.source, out=task.out, **task.options, **more)
    path = locate(job.source)  # everything of it is on this machine by now
    return {"source": str(path), "result": plain(result.to_dict())}


def _problem(error: Exception) -> dict[str, str]:
    if isinstance(error, KannaError):
        return {"found": error.found, "expected": error.expected, "todo": error.todo}
    traceback.print_exception(error)
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return {"found": f"{where}{error.strerror or error}"}
    if isinstance(error, MemoryError):
        return {"found": "there is not enough memory", "todo": "close other programs"}
    return {"found": f"{type(error).__name__}: {error}", "todo": "see the log of the job"}


def main(folder: Path) -> int:
    """Run the job of a folder; returns the exit code."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Thread(target=_watch_input, daemon=True).start()
        job = StudioJob(**read_object(folder / "job.json"))
        with ending_orderly():
            outcome = _run(job, folder)
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        write_json(folder / "error.json", _problem(error))
        return error.exit_code if isinstance(error, KannaError) else 1
    write_json(folder / "result.json", outcome)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
