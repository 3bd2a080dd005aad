"""The child process of an engine: started, asked, and explained when it dies."""

from __future__ import annotations

import atexit
import json
import os
import re
import signal
import subprocess
import tempfile
import weakref
from contextlib import suppress
from typing import IO, Any

from kanna import errors
from kanna._util.interpreter import module_command
from kanna._util.processes import environment, was_killed
from kanna.errors import CrashError, KannaError, KilledError
from kanna.libllama.devices import LOST, WHEN_LOST
from kanna.runtimes.isolation.shared_memory import SharedMemory

# A child whose model was freed waits for the next one: it has the libraries loaded already.
_MAX_IDLE = 2
_idle: list[Child] = []
_all: weakref.WeakSet[Child] = weakref.WeakSet()

# What of the environment a child must share with the engine that takes it over.
_MATTERS = re.compile(r"^(KANNA|GGML|LLAMA|ORT|MLX|OMP|GOMP|CUDA|HIP|ROCR|VK|OCL|POCL|ONEAPI)_")

# Lines of a dying library that say why, the most telling first.
_TELLING = (
    re.compile(r"GGML_ASSERT|GGML_ABORT|Assertion|what\(\):", re.IGNORECASE),
    re.compile(r"fatal|error|abort|exception", re.IGNORECASE),
)


def _variables() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if _MATTERS.match(name)}


def start(runtime: str) -> Child:
    """A child without a model: one of that runtime that waits, or a new one."""
    for child in reversed(_idle):
        if child.variables != _variables() or not child.alive():
            _idle.remove(child)
            child.kill()
        elif child.runtime == runtime:
            _idle.remove(child)
            return child
    return Child(runtime)


def give_back(child: Child) -> None:
    """Keep a child whose model was freed for the next engine."""
    _idle.append(child)
    while len(_idle) > _MAX_IDLE:
        _idle.pop(0).kill()


@atexit.register
def _end_all() -> None:
    for child in list(_all):
        child.kill()


class Child:
    """A process that runs `kanna.runtimes.isolation.child`.

    Args:
        runtime: The name of the one runtime whose models it opens.

    Attributes:
        memory: What it shares with us.
        variables: The variables it was started with, as far as they matter to a runtime.
        streams: Streams it was asked for, by all engines it served: `cancel` names one by its
            number, so none may have the number of another that an engine before left.
    """

    def __init__(self, runtime: str) -> None:
        self.runtime = runtime
        self.memory = SharedMemory.create()
        self.variables = _variables()
        self.streams = 0
        # A file and not a pipe: nobody reads it unless the child dies.
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - as long as it lives
        self._process = subprocess.Popen(
            module_command("kanna.runtimes.isolation.child", self.memory.name),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
            env=environment() | {"GGML_NO_BACKTRACE": "1"},
            pass_fds=self.memory.inherited,
        )
        _all.add(self)

    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def send(self, request: dict[str, Any]) -> None:
        """Send one request; a child that died is noticed by `receive`."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()

    def receive(self, doing: str) -> dict[str, Any]:
        """The next answer.

        Args:
            doing: What the child was asked to do, for the message when it dies.

        Raises:
            KannaError: What the engine raised.
            CrashError: The process ended.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.endswith("\n"):
            raise self._crash(doing)
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            kind: type[KannaError] = getattr(errors, answer["error"], KannaError)
            raise kind(answer["problem"], expected=answer["expected"], todo=answer["todo"])
        return answer

    def ask(self, request: dict[str, Any], doing: str) -> dict[str, Any]:
        """`send` and `receive`."""
        self.send(request)
        return self.receive(doing)

    def _crash(self, doing: str) -> CrashError:
        code = self._process.wait()
        text = self._last_words()
        self.kill()
        if was_killed(code):
            return KilledError(
                f"{doing} was killed by the system, most likely for want of memory",
                todo="free memory, or use a smaller --context or model",
            )
        if code == -getattr(signal, "SIGBUS", 0) != 0:
            # A runtime maps the file it runs: this signal says that a page of it is gone.
            return CrashError(
                f"{doing} ended the runtime's process: the file was cut while it was read",
                expected="a file that stays as it is while a runtime uses it",
                todo="let whatever writes it finish, then run the command again",
            )
        why = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        ended = f"{doing} ended the runtime's process ({why}){': ' + text if text else ''}"
        if LOST.search(text):  # it says nothing of the file
            return CrashError(ended, expected="a device that computes to the end", todo=WHEN_LOST)
        return CrashError(
            ended,
            todo="the runtime cannot run this file: look at it with `kanna inspect`, or convert "
            "again from the original model",
        )

    def _last_words(self) -> str:
        self._errors.seek(0)
        text = self._errors.read().decode("utf-8", "replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        for pattern in _TELLING:
            for line in lines:
                if pattern.search(line):
                    return re.sub(r"^\S*/", "", line)
        return lines[-1] if lines else ""

    def kill(self) -> None:
        """End it; may be called twice."""
        with suppress(OSError):
            self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                with suppress(OSError):
                    stream.close()
        self.memory.close()
