"""Steps that run beside each other in workers with folders of their own; no cluster is needed."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import kanna
from kanna import executors
from kanna.errors import FormatError, KannaError
from kanna.executors.base import Executor
from kanna.executors.local import LocalOptions
from kanna.executors.pools import StepTask, TaskInput
from kanna.executors.step_worker import SentFile, StepWorker
from kanna.executors.transport import bring, send


class Threads:
    """A pool of workers in this process: their files travel as they would to another machine."""

    slots = 3

    def __init__(self, scratch: Path) -> None:
        self.scratch, self.order = scratch, list[str]()
        self.threads, self.ended = ThreadPoolExecutor(3), queue.Queue[tuple[str, None]]()

    def start(self, task: StepTask) -> None:
        self.order.append(task.id)
        self.threads.submit(self.perform, task)

    def perform(self, task: StepTask) -> None:
        worker = StepWorker(str(self.scratch / task.id))
        call = caller(worker)
        places = {str(one.path): send(one, call) for one in task.reads}
        files = worker.perform(task.work, task.key, task.id, places)
        bring(files, task.folder, partial(worker.read, task.key), task.id)
        worker.finish(task.key)
        self.ended.put((task.id, None))

    def wait(self) -> Iterable[tuple[str, KannaError | None]]:
        return [self.ended.get(timeout=60)]

    def close(self) -> None:
        self.threads.shutdown()


def caller(worker: StepWorker) -> Callable[..., Any]:
    """Calls a method of a worker by name."""

    def call(name: str, *given: Any) -> Any:
        return getattr(worker, name)(*given)

    return call


def test_steps_in_workers_leave_what_a_run_here_leaves(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = kanna.run(recipe, tmp_path / "here")
    pool = Threads(tmp_path / "scratch")

    def opened(*_: object) -> Threads:
        return pool

    def found(_: str) -> Executor:
        return Executor(summary="Threads", options=LocalOptions, pool=opened)

    monkeypatch.setattr(executors, "get", found)
    away = kanna.run(recipe, tmp_path / "away", on="threads")
    assert away.ok, [step.error for step in away.steps]
    assert pool.order[:2] == ["small-Q8_0", "small-Q4_0"]  # before what needs the first
    assert [step.key for step in here.steps] == [step.key for step in away.steps]
    for name in ("small-Q8_0", "small-Q4_0"):
        file = f"steps/{name}/{name}.gguf"
        assert (tmp_path / "here" / file).read_bytes() == (tmp_path / "away" / file).read_bytes()
        assert (
            str(tmp_path / "scratch")
            not in (tmp_path / f"away/steps/{name}/result.json").read_text()
        )
    assert kanna.run(recipe, tmp_path / "away", on="threads").count("kept") == 4


def test_a_file_that_changes_on_its_way_is_refused(tmp_path: Path) -> None:
    given = tmp_path / "model" / "a.gguf"
    given.parent.mkdir()
    given.write_bytes(b"weights")
    worker = StepWorker(str(tmp_path / "scratch"))
    place = send(TaskInput(path=given, files=("a.gguf",)), caller(worker))
    there = tmp_path / "scratch" / "inputs" / place
    assert there.read_bytes() == b"weights"
    assert worker.holds(place.partition("/")[0])
    worker.holds("another")
    worker.write("a.gguf", b"other bytes")
    with pytest.raises(FormatError, match="changed on its way"):
        worker.received("another", {"a.gguf": "0" * 64})
    assert not (tmp_path / "scratch" / "inputs" / "another").exists()

    def read(_: str, offset: int) -> bytes:
        return b"weights"[offset:]

    for name in ("a.gguf", "../a.gguf", "/a.gguf"):
        with pytest.raises(FormatError):
            bring([SentFile(name=name, bytes=7, sha256="0" * 64)], tmp_path / "out", read, "small")
    assert [path.name for path in tmp_path.iterdir()] == ["model", "scratch"]
