"""Steps beside each other on this machine, as far as processors and memory allow.

Each runs in a process of its own, which stays for the next one. As long as there is none, a step
that is alone runs in this process: nothing could begin before it ends. What measures the machine
has it for itself.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from kanna._util import own_files
from kanna._util.bars import beside
from kanna._util.kept_process import KeptProcess
from kanna._util.progress import Progress, remark
from kanna._util.units import format_size
from kanna.errors import KannaError
from kanna.hardware.cpu import default_threads
from kanna.hardware.memory import memory
from kanna.recipes import step_memory, step_process, step_run
from kanna.recipes.options import model
from kanna.recipes.records import StepRecord
from kanna.recipes.step_run import StepCall

_PATIENCE = 8.0
"""Seconds that an interrupted step may take to clean up."""
_LISTEN = 0.5
"""Seconds after which Ctrl-C is heard, where a wait does not end by itself."""


@dataclass(slots=True)
class _Running:
    """A step in a process.

    Attributes:
        needs: Bytes of memory that it was predicted to take.
    """

    call: StepCall
    process: KeptProcess
    progress: Progress
    needs: int


@dataclass(slots=True, kw_only=True)
class StepsBeside:
    """Steps beside each other, in processes.

    Attributes:
        progress: Where all of them report.
        remark: Is told about steps.
        slots: How many there may be at a time.
        threads: What they share; 0: every core.
        memory_bytes: What they may take together; 0: what is free when one begins.
        waiting: Steps that were given and have not begun, in order.
    """

    progress: Progress
    remark: Callable[[str], None]
    slots: int
    threads: int = 0
    memory_bytes: int = 0
    waiting: list[StepCall] = field(default_factory=list[StepCall])
    _running: dict[str, _Running] = field(default_factory=dict[str, "_Running"])
    _idle: list[KeptProcess] = field(default_factory=list[KeptProcess])
    _heard: queue.SimpleQueue[tuple[str, dict[str, Any] | None]] = field(
        default_factory=queue.SimpleQueue[tuple[str, "dict[str, Any] | None"]]
    )
    _told: set[str] = field(default_factory=set[str])

    def start(self, call: StepCall) -> None:
        """Take a step; it begins when it is waited for, and there is room."""
        self.waiting.append(call)

    def wait(self) -> Iterable[tuple[str, StepRecord]]:
        """Begin what there is room for, and wait until a step has ended."""
        none = not self._running and not self._idle  # a process that is there has loaded libraries
        if none and (len(self.waiting) == 1 or self.waiting[0].verb.alone):
            call = self._with_threads(self.waiting.pop(0), self._all_threads())
            return [(call.instance.id, step_run.run(call, self.progress, self.remark))]
        chosen = list(self._chosen())
        share = self._all_threads() // max(1, len(self._running) + len(chosen))
        for call, needs in chosen:
            self.waiting.remove(call)
            self._begin(self._with_threads(call, share), needs)
        return [self._next_record()]

    def close(self) -> None:
        """Interrupt what runs still, and end every process."""
        running = list(self._running.values())
        for one in running:
            one.process.interrupt()
        try:
            for one in running:
                one.process.ended(_PATIENCE)
        finally:
            for process in (*(one.process for one in running), *self._idle):
                process.end()
            for one in running:  # what a process that was killed has left
                own_files.sweep(one.call.folder.parent)
            self._running.clear()
            self._idle.clear()

    def _all_threads(self) -> int:
        return self.threads or default_threads()

    def _with_threads(self, call: StepCall, share: int) -> StepCall:
        """A call with its share of the threads, where it takes them and names none itself."""
        alone = share == self._all_threads() and not self.threads
        if (
            alone
            or "threads" in call.options
            or "threads" not in model(call.instance.verb).model_fields
        ):
            return call
        return replace(call, options={**call.options, "threads": max(1, share)})

    def _chosen(self) -> Iterator[tuple[StepCall, int]]:
        """Steps that there is room for, each with the memory that it is predicted to take."""
        begun = len(self._running)
        free = self._free()
        for call in self.waiting:
            if call.verb.alone and begun:
                return  # those after it would keep it waiting
            needs = step_memory.predicted(call.verb, call.options)
            if begun and needs > free:
                if call.instance.id not in self._told:
                    self._told.add(call.instance.id)
                    self.remark(
                        f"{call.instance.id} waits: it takes about {format_size(needs)} of memory, "
                        f"and {format_size(max(0, free))} are free"
                    )
                continue
            yield call, needs
            if call.verb.alone:
                return
            begun, free = begun + 1, free - needs

    def _free(self) -> int:
        """Bytes that a further step may take: running ones may grow to what was predicted."""
        expected = sum(one.needs for one in self._running.values())
        if self.memory_bytes:
            return self.memory_bytes - expected
        held = sum(step_memory.held(one.process.pid, one.needs) for one in self._running.values())
        return memory().available - (expected - held)

    def _begin(self, call: StepCall, needs: int) -> None:
        name = call.instance.id
        process = self._idle.pop() if self._idle else self._process()
        self._running[name] = _Running(call, process, beside(self.progress, name), needs)
        process.send(step_process.task_of(call))
        threading.Thread(target=self._listen, args=(name, process), daemon=True).start()

    def _process(self) -> KeptProcess:
        """A new process; libraries that are told no number of threads take a share."""
        share = str(max(1, self._all_threads() // self.slots))
        return KeptProcess(step_process.MODULE, variables={"OMP_NUM_THREADS": share}, apart=True)

    def _listen(self, name: str, process: KeptProcess) -> None:
        """Hear a process until its step has ended."""
        while True:
            line = process.answer()
            self._heard.put((name, line))
            if line is None or "record" in line:
                return

    def _next_record(self) -> tuple[str, StepRecord]:
        """The next step that has ended; what the others tell meanwhile is shown."""
        while True:
            try:
                name, line = self._heard.get(timeout=_LISTEN)
            except queue.Empty:
                continue
            one = self._running[name]
            if line is None:
                del self._running[name]
                return name, self._lost(one)
            if "record" in line:
                del self._running[name]
                self._idle.append(one.process)
                one.progress.finish()
                return name, StepRecord.model_validate(line["record"])
            self._show(one, line)

    def _show(self, one: _Running, line: dict[str, Any]) -> None:
        [(what, words)] = line.items()
        if what == "remark":
            self.remark(f"{one.call.instance.id}: {words[0]}")
        elif what == "show":
            remark(one.progress, words[0])
        else:
            getattr(one.progress, what)(*words)

    def _lost(self, one: _Running) -> StepRecord:
        """The record of a step whose process ended over it."""
        one.progress.finish()
        own_files.sweep(one.call.folder.parent)
        problem = KannaError(
            f"the process of {one.call.instance.id} {one.process.end()}",
            todo="where memory ran out, --jobs 1 runs one step after another",
        )
        return StepRecord(
            key=one.call.key,
            verb=one.call.instance.verb,
            seconds=0.0,
            error=step_run.problem(problem),
        )
