"""Starting the process of an engine, and what it prints.

Little is imported here: the process starts up while the gateway still does.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import deque
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from kanna._util.interpreter import SAFE_VARIABLES, module_command
from kanna._util.processes import openmp_patience
from kanna.serving.engines.base import EngineConfig

_QUIET = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def launch(engine: str) -> subprocess.Popen[bytes]:
    """A process that imports what `engine` needs and waits for a line on its standard input.

    Call it from the main thread only: on Linux a child dies with the thread that made it.
    """
    return subprocess.Popen(
        module_command("kanna.serving.child", engine),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )


def environment() -> dict[str, str]:
    """The environment of the gateway's children, who import kanna from the same place."""
    places = os.pathsep.join(place for place in sys.path if place)
    return os.environ | openmp_patience() | _QUIET | SAFE_VARIABLES | {"PYTHONPATH": places}


class EngineRun:
    """One life of an engine's process, from its start to its end.

    Its futures are those of threads, so that it may start before there is an event loop.

    Args:
        config: Sent to the process.
        launched: A process of `launch` that waits for it; None: start one.

    Attributes:
        ready: What the process announces, with its port.
        ended: Its exit code.
        stderr_tail: The last lines of its standard error.
    """

    def __init__(
        self, config: EngineConfig, launched: subprocess.Popen[bytes] | None = None
    ) -> None:
        self.ready: Future[dict[str, Any]] = Future()
        self.ended: Future[int] = Future()
        self.stderr_tail: deque[str] = deque(maxlen=30)
        self.process = launched or launch(config.engine)
        assert self.process.stdin
        with suppress(BrokenPipeError):
            self.process.stdin.write(config.to_json().encode() + b"\n")
            self.process.stdin.flush()
        self._errors = threading.Thread(target=self._read_stderr, daemon=True)
        self._errors.start()
        threading.Thread(target=self._read_stdout, daemon=True).start()

    @property
    def error_lines(self) -> list[str]:
        """The line of standard error that most likely says why it ended, if there is any."""
        lines = [line for line in self.stderr_tail if line.strip()]
        errors = [line for line in lines if "error" in line.lower() or line.startswith("kanna:")]
        return (errors or lines)[-1:]

    def _read_stdout(self) -> None:
        assert self.process.stdout
        with suppress(ValueError, OSError):
            line = self.process.stdout.readline()
            if line.startswith(b"{"):
                self.ready.set_result(json.loads(line))
            while self.process.stdout.read(4096):
                pass
        code = self.process.wait()
        self._errors.join(1)  # its last lines say why it ended
        if not self.ready.done():
            self.ready.set_exception(RuntimeError(f"it ended with code {code}"))
        self.ended.set_result(code)

    def _read_stderr(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            self.stderr_tail.append(line.decode("utf-8", "replace").rstrip())
