"""Where the steps of a run are performed: on this machine, or in a pool of an executor."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from kanna._util.atomic import write_text
from kanna._util.progress import Progress, Silent
from kanna.errors import KannaError
from kanna.escaping import json_text
from kanna.executors.base import Executor
from kanna.executors.local import LocalOptions
from kanna.executors.pools import StepPool, StepTask, TaskInput
from kanna.recipes import records, step_run
from kanna.recipes.document import Value
from kanna.recipes.inputs import parts, split_weight
from kanna.recipes.records import StepRecord
from kanna.recipes.step_run import StepCall
from kanna.recipes.steps_beside import StepsBeside


class StepsAtWork(Protocol):
    """Steps that were started and have not ended."""

    @property
    def slots(self) -> int:
        """How many there may be."""
        ...

    def start(self, call: StepCall) -> None:
        """Begin a step."""
        ...

    def wait(self) -> Iterable[tuple[str, StepRecord]]:
        """Wait until some have ended: their ids and records."""
        ...


@dataclass(slots=True)
class StepsHere:
    """One step at a time, in this process."""

    progress: Progress
    remark: Callable[[str], None]
    calls: deque[StepCall] = field(default_factory=deque[StepCall])
    slots: int = 1

    def start(self, call: StepCall) -> None:
        """Take a step; it runs when it is waited for."""
        self.calls.append(call)

    def wait(self) -> Iterable[tuple[str, StepRecord]]:
        """Run a step."""
        call = self.calls.popleft()
        return [(call.instance.id, step_run.run(call, self.progress, self.remark))]


@dataclass(slots=True)
class StepsAway:
    """Steps in a pool; those that measure a machine measure this one, and run here."""

    pool: StepPool
    here: StepsHere
    calls: dict[str, StepCall] = field(default_factory=dict[str, StepCall])

    @property
    def slots(self) -> int:
        """How many may have been started and not ended."""
        return self.pool.slots

    def start(self, call: StepCall) -> None:
        """Begin a step."""
        if call.verb.measures:
            self.here.start(call)
            return
        self.calls[call.instance.id] = call
        work = StepAway(
            id=call.instance.id,
            step=call.instance.step,
            verb=call.instance.verb,
            options=dict(call.options),
            key=call.key,
            folder=str(call.folder),
        )
        self.pool.start(
            StepTask(
                id=call.instance.id,
                step=call.instance.step,
                key=call.key,
                folder=call.folder,
                work=work,
                reads=tuple(_reads(call)),
            )
        )

    def wait(self) -> Iterable[tuple[str, StepRecord]]:
        """Run what runs here; else wait for the pool."""
        if self.here.calls:
            return self.here.wait()
        return [(name, self._record(name, problem)) for name, problem in self.pool.wait()]

    def _record(self, name: str, problem: KannaError | None) -> StepRecord:
        call = self.calls.pop(name)
        record = None if problem else records.read_step(call.folder)
        if record is None:
            problem = problem or KannaError(f"{name} left no {records.STEP}")
            return StepRecord(
                key=call.key,
                verb=call.instance.verb,
                seconds=0.0,
                error=step_run.problem(problem),
            )
        # Its files have other times here.
        record.files = step_run.files_of(call.folder)
        records.write(call.folder / records.STEP, record)
        return record


@contextmanager
def at_work(
    executor: Executor, options: object, progress: Progress, remark: Callable[[str], None]
) -> Generator[StepsAtWork]:
    """Where the steps of a run are performed; what runs still is ended with the block.

    Args:
        executor: Whose it is.
        options: Of the executor.
        progress: Of steps that run here.
        remark: Is told about steps.
    """
    if executor.pool is None:
        room = options if isinstance(options, LocalOptions) else LocalOptions()
        local = StepsBeside(
            progress=progress,
            remark=remark,
            slots=room.slots,
            threads=room.threads,
            memory_bytes=int(room.memory_gb * 1e9),
        )
        try:
            yield local
        finally:
            local.close()
        return
    pool = executor.pool(options, remark)
    try:
        yield StepsAway(pool, StepsHere(progress, remark))
    finally:
        pool.close()


def _reads(call: StepCall) -> Iterable[TaskInput]:
    """What a step reads on this machine."""
    inputs: dict[Path, TaskInput] = {}
    for option, kinds in call.verb.inputs.items():
        value = call.options.get(option)
        for item in value if isinstance(value, list) else [value]:
            if not isinstance(item, str) or item in call.verb.words:
                continue
            path = Path(split_weight(item, kinds)[0])
            if path.is_absolute() and path.exists():
                files = records.files_of(parts(path), path.parent)
                inputs[path] = TaskInput(path=path, files=tuple(file.name for file in files))
    return inputs.values()


@dataclass(frozen=True, slots=True, kw_only=True)
class StepAway:
    """A step that another process loads and runs.

    Attributes:
        options: Of the verb, with paths of the machine that sent it.
        folder: Where its files belong on that machine.
    """

    id: str
    step: str
    verb: str
    options: dict[str, Value]
    key: str
    folder: str

    def __call__(self, folder: Path, places: Mapping[str, str]) -> None:
        """Run it in a folder; what it says of itself names the paths of the machine that sent it.

        Args:
            folder: Where it writes.
            places: What it reads, by its path there, and where that lies here.
        """
        call = StepCall.of(
            name=self.id,
            step=self.step,
            verb=self.verb,
            key=self.key,
            folder=folder,
            options={name: _placed(value, places) for name, value in self.options.items()},
        )
        step_run.run(call, Silent(), _nothing)
        back = {str(folder): self.folder} | {here: there for there, here in places.items()}
        for name in (records.RESULT, records.STEP):
            path = folder / name
            if path.is_file():
                value = json.loads(path.read_text(encoding="utf-8"))
                for before, after in back.items():
                    value = step_run.moved(value, before, after)
                write_text(path, json_text(value) + "\n")


def _placed(value: Value, places: Mapping[str, str]) -> Value:
    if isinstance(value, list):
        return [_placed(item, places) for item in value]
    if not isinstance(value, str):
        return value
    for there, here in places.items():
        if value == there or value.startswith(f"{there}="):  # the weight of an adapter
            return here + value[len(there) :]
    return value


def _nothing(_: str) -> None:
    pass
