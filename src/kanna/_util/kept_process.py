"""Children of ours that stay for further tasks, for libraries that take seconds to load."""

from __future__ import annotations

import atexit
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from kanna._util.interpreter import module_command
from kanna._util.processes import (
    end_all,
    environment,
    mark_disposable,
    stand_in,
    working_folder,
)
from kanna.errors import KannaError

_IDLE_SECONDS = 20.0
"""A process that is asked nothing for so long gives its memory back: torch takes 300 MB."""


class KeptProcess:
    """One child; a task at a time, a JSON object per line in and out.

    Args:
        module: Whose `main` calls `serve` or `listen`.
        variables: Added to its environment.
        apart: Whether Ctrl-C in the terminal leaves it to us to interrupt it.

    Attributes:
        variables: The environment it was started with.
        last: When it answered last, by the monotonic clock.
    """

    def __init__(
        self, module: str, *, variables: Mapping[str, str] | None = None, apart: bool = False
    ) -> None:
        self.last = time.monotonic()
        self.variables = environment() | dict(variables or {})
        self._errors = tempfile.TemporaryFile(mode="w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self._child = subprocess.Popen(
            module_command(module),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
            env=self.variables,
            start_new_session=apart,
        )

    def ask(self, task: Mapping[str, Any]) -> dict[str, Any] | None:
        """The answer to a task; None when the child ended over it."""
        return self.answer() if self.send(task) else None

    def send(self, task: Mapping[str, Any]) -> bool:
        """Give it a task; False when it has ended."""
        assert self._child.stdin is not None
        try:
            line = json.dumps({"folder": working_folder(), "task": task})
            self._child.stdin.write(line + "\n")
            self._child.stdin.flush()
        except (OSError, ValueError):
            return False
        return True

    def answer(self) -> dict[str, Any] | None:
        """The next line that it answers; None when it has ended."""
        assert self._child.stdout is not None
        try:
            return json.loads(self._child.stdout.readline())
        except (OSError, ValueError):
            return None

    def interrupt(self) -> None:
        """Interrupt it as Ctrl-C would, where there is a way to; else end it."""
        with suppress(OSError):
            if os.name == "posix":
                self._child.send_signal(signal.SIGINT)
            else:
                self._child.kill()

    def ended(self, seconds: float) -> bool:
        """Whether it ends within some seconds."""
        try:
            self._child.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    @property
    def pid(self) -> int:
        """Its process."""
        return self._child.pid

    def alive(self) -> bool:
        """Whether it can be asked."""
        return self._child.poll() is None

    def end(self) -> str:
        """End it; the last line that it printed about an error."""
        end_all(self._child)
        for stream in (self._child.stdin, self._child.stdout):
            with suppress(OSError):
                assert stream is not None
                stream.close()
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines() or ["no message"]
        self._errors.close()
        return f"ended with code {self._child.returncode}: {lines[-1]}"


class _Kept:
    """The children of this process by module, each with the lock of whoever asks it."""

    def __init__(self) -> None:
        self.by_module: dict[str, KeptProcess] = {}
        self.locks: dict[str, threading.Lock] = {}

    def end(self) -> None:
        while self.by_module:
            self.by_module.popitem()[1].end()


_kept = _Kept()


def ask_kept(module: str, task: Mapping[str, Any], what: str) -> dict[str, Any]:
    """What a child that runs `module` answers to a task; the child stays for the next one.

    Args:
        module: Whose `main` calls `serve`.
        task: Its keyword arguments.
        what: What the child does, for the message when it dies.

    Raises:
        KannaError: The child died.
    """
    kept = _kept
    with kept.locks.setdefault(module, threading.Lock()):
        process = kept.by_module.pop(module, None)
        if process is not None and (not process.alive() or process.variables != environment()):
            process.end()
            process = None
        process = process or KeptProcess(module)
        try:
            answer = process.ask(task)
        except BaseException:  # Ctrl-C: what it answers later is nobody's
            process.end()
            raise
        if answer is None:
            raise KannaError(f"{what} {process.end()}")
        process.last = time.monotonic()
        kept.by_module[module] = process
    timer = threading.Timer(_IDLE_SECONDS, _end_idle, (kept, module, process))
    timer.daemon = True
    timer.start()
    return answer


def _end_idle(kept: _Kept, module: str, process: KeptProcess) -> None:
    """End a process that was asked nothing since the timer began."""
    with kept.locks[module]:
        idle = time.monotonic() - process.last >= _IDLE_SECONDS
        if idle and kept.by_module.get(module) is process:
            del kept.by_module[module]
            process.end()


def serve(work: Callable[..., dict[str, Any]]) -> int:
    """The child's side of `ask_kept`: answer until the parent is gone.

    Whatever else prints goes to standard error.
    """

    def once(answer: Callable[[dict[str, Any]], None], **task: Any) -> None:
        answer(work(**task))

    return listen(once)


def listen(work: Callable[..., None]) -> int:
    """The child's side of `KeptProcess`: work on one task after another until the parent is gone.

    Args:
        work: Gets what answers, as often as it likes, and the task as keyword arguments.
    """
    mark_disposable()
    answers: TextIO = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    tasks: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(tasks,), daemon=True).start()

    def answer(what: dict[str, Any]) -> None:
        answers.write(json.dumps(what) + "\n")
        answers.flush()

    with suppress(KeyboardInterrupt):
        while True:
            asked = json.loads(tasks.get())
            stand_in(asked["folder"])
            work(answer, **asked["task"])
    return 130


@contextmanager
def limited(seconds: float, memory: int | None = None) -> Generator[None]:
    """Let the kernel end this process when what is inside takes too much of them.

    Args:
        seconds: Of processor time.
        memory: Bytes on top of what the process has now.
    """
    try:
        import resource
    except ImportError:  # Windows
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with suppress(OSError, ValueError, IndexError):
        if memory is not None:
            pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
            most = pages * resource.getpagesize() + memory
            resource.setrlimit(resource.RLIMIT_AS, (most if hard < 0 else min(most, hard), hard))
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _read(tasks: queue.SimpleQueue[str]) -> None:
    """Read beside the work, so that the end of the parent ends the work too."""
    for line in sys.stdin:
        tasks.put(line)
    os._exit(1)


def _forget() -> None:
    """A forked process has the pipes of its parent, which are not its own to use."""
    global _kept
    _kept = _Kept()


atexit.register(lambda: _kept.end())
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
