"""Parts of one verb in an executor: shards of a text, layers of a model, several at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from kanna import executors
from kanna._util.arguments import several
from kanna._util.progress import Progress, remark
from kanna.errors import KannaError, UsageError
from kanna.executors import settings
from kanna.executors.base import Executor
from kanna.executors.pools import StepPool, StepTask, TaskInput

Settings = Mapping[str, object] | str | Sequence[str] | None
"""Options of an executor, by name or as texts such as `cpus=8`."""


class _PoolHere:
    """One part after another, in this process."""

    slots = 1

    def __init__(self) -> None:
        self._tasks: deque[StepTask] = deque()

    def start(self, task: StepTask) -> None:
        """Take a part; it runs when it is waited for."""
        self._tasks.append(task)

    def wait(self) -> Iterable[tuple[str, KannaError | None]]:
        """Run a part."""
        task = self._tasks.popleft()
        task.work(task.folder, {})
        return [(task.id, None)]

    def close(self) -> None:
        """Nothing is open."""


def perform(
    on: str, on_set: Settings, tasks: Sequence[StepTask], *, progress: Progress, what: str
) -> None:
    """Run parts of a verb, several at a time; the first that cannot be run ends the others.

    What is done lies in the folders of the tasks, so that who asks again asks for the rest.

    Args:
        on: Name of the executor.
        on_set: Its options.
        tasks: The parts.
        progress: Gets one part after another, and is told of machines that were lost.
        what: The parts, for people.

    Raises:
        UsageError: There is no such executor or option, or it runs whole recipes alone.
        KannaError: A part could not be run.
    """
    with _opened(on, on_set, partial(remark, progress)) as pool:
        waiting, running = deque(tasks), 0
        progress.start(what, len(tasks), what)
        while waiting or running:
            while waiting and running < pool.slots:
                pool.start(waiting.popleft())
                running += 1
            for name, problem in pool.wait():
                if problem is not None:
                    raise problem
                running -= 1
                progress.advance(1, name)
        progress.finish()


@dataclass(frozen=True, slots=True, kw_only=True)
class PartsPlace:
    """Where parts of a verb run.

    Attributes:
        on: Name of the executor.
        on_set: Its options.
    """

    on: str
    on_set: Settings = None

    def check(self) -> None:
        """Raise UsageError where the executor or one of its options is not known."""
        _executor(self.on, self.on_set)

    def reach(self) -> None:
        """Raise what `perform` would raise before the first part: KannaError, or UsageError."""
        with _opened(self.on, self.on_set, lambda _: None):
            pass

    def perform(self, tasks: Sequence[StepTask], *, progress: Progress, what: str) -> None:
        """As `perform` of this module."""
        perform(self.on, self.on_set, tasks, progress=progress, what=what)


def _executor(on: str, on_set: Settings) -> tuple[Executor, Any]:
    """An executor that parts can run in, and its options; UsageError names those that there are."""
    executor = executors.get(on)
    if executor.files is not None:
        able = [n for n in executors.names() if executors.get(n).files is None]
        raise UsageError(f"--on {on} runs whole recipes", expected=" or ".join(able))
    return executor, settings.read(executor.options, on, None, _named(on_set))


@contextmanager
def _opened(on: str, on_set: Settings, tell: Callable[[str], None]) -> Generator[StepPool]:
    executor, options = _executor(on, on_set)
    pool = executor.pool(options, tell) if executor.pool is not None else _PoolHere()
    try:
        yield pool
    finally:
        pool.close()


def _named(given: Settings) -> Mapping[str, object]:
    if isinstance(given, Mapping):
        return given
    named: dict[str, object] = {}
    for text in several(given):
        name, equal, value = text.partition("=")
        if not equal:
            raise UsageError(f"--on-set {text}", expected="NAME=VALUE")
        named[name] = value
    return named


def sent(path: Path) -> TaskInput:
    """A file or folder of this machine that a part reads.

    Args:
        path: Where it lies.
    """
    path = path.absolute()
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return TaskInput(
        path=path, files=tuple(file.relative_to(path.parent).as_posix() for file in files)
    )
