"""The process that holds a model.

`python -m kanna.runtimes.isolation.child MEMORY` answers lines of JSON on standard input, one each
on standard output, until its input closes: so it ends with the process that asks, however that
ends. Logits go through the shared memory.
"""

from __future__ import annotations

import base64
import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from kanna import runtimes
from kanna._util import memory_limits, processes
from kanna.errors import KannaError, UsageError
from kanna.formats.file_states import FileStates
from kanna.hardware import memory
from kanna.model import F32
from kanna.runtimes.base import Engine, Sampling
from kanna.runtimes.isolation.shared_memory import SharedMemory

FACTS = (
    "context",
    "threads",
    "vocab_size",
    "trained_context",
    "bos",
    "eos",
    "adds_bos",
    "chat_template",
)
"""Attributes of an `Engine` that do not change."""
ENCODER_FACTS = ("threads", "longest")
"""The same of an encoder."""


class Requests:
    """Lines that arrive, read by a thread, so that `cancel` is heard while the model computes."""

    def __init__(self) -> None:
        self._queue: queue.Queue[dict[str, Any]] = queue.Queue()
        self.cancelled = 0
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in sys.stdin:
            request = json.loads(line)
            if request["do"] == "cancel":
                self.cancelled = max(self.cancelled, request["stream"])
            else:
                self._queue.put(request)
        os._exit(0)  # whoever asked is gone, and nobody waits for the answer

    def next(self) -> dict[str, Any]:
        """The next request; waits for it."""
        return self._queue.get()


class Server:
    """Answers requests with one engine at a time."""

    def __init__(self, memory: SharedMemory, requests: Requests, answers: TextIO) -> None:
        self._memory, self._requests, self._answers = memory, requests, answers
        self._engine: Any = None
        self._parts: Iterator[F32] = iter(())

    def answer(self, message: dict[str, Any]) -> None:
        """Send one line."""
        self._answers.write(json.dumps(message) + "\n")
        self._answers.flush()

    def run(self) -> None:
        """Answer until the process ends."""
        while True:
            request = self._requests.next()
            try:
                self._run(request)
            except KannaError as error:
                self.answer(
                    {
                        "error": type(error).__name__,
                        "problem": error.found,
                        "expected": error.expected,
                        "todo": error.todo,
                    }
                )
            except (ValueError, MemoryError, OSError, RuntimeError) as error:
                self.answer(
                    {"error": "KannaError", "problem": f"{type(error).__name__}: {error}"}
                    | {"expected": "", "todo": ""}
                )

    def _run(self, request: dict[str, Any]) -> None:
        action = request.pop("do")
        if "folder" in request:
            processes.stand_in(request.pop("folder"))
        if action == "open":
            self._open(**request)
        elif action == "open_encoder":
            self._open_encoder(**request)
        elif action == "close":
            self._close()
        elif action == "generate":
            self._generate(self._engine.generate, **request)
        elif action == "generate_seeing":
            seen = [base64.b64decode(picture) for picture in request.pop("pictures")]
            self._generate(self._engine.generate_seeing, pictures=seen, **request)
        elif action == "logits":
            self._logits(**request)
        elif action == "next_part":
            self._next_part(**request)
        elif action == "rank":
            self._send_rows(self._ranked(**request))
        elif action in ("embed", "hidden"):
            self._send_rows(getattr(self._engine, action)(**request))
        else:
            self._call(action, request)

    def _open(self, runtime: str, path: str, options: dict[str, Any]) -> None:
        opener: Any = runtimes.get(runtime)
        runtimes.hide_unneeded(opener)
        open_engine = opener.open_seeing if "mmproj" in options else opener.open
        self._engine = load(open_engine, path, options)
        self.answer({"facts": {name: getattr(self._engine, name) for name in FACTS}})

    def _ranked(self, texts: list[list[int]]) -> F32:
        engine: Any = self._engine
        return engine.rank(texts).reshape(-1, 1)

    def _open_encoder(self, runtime: str, path: str, options: dict[str, Any]) -> None:
        opener: Any = runtimes.get(runtime)
        self._engine = load(opener.open_encoder, path, options)
        self.answer({"facts": {name: getattr(self._engine, name) for name in ENCODER_FACTS}})

    def _close(self) -> None:
        engine: Engine | None = self._engine
        if engine is not None:
            engine.close()
        self._engine = None
        self._parts = iter(())  # those of the closed engine, if they were left
        self._memory.release()
        self.answer({"result": None})

    def _call(self, name: str, arguments: dict[str, Any]) -> None:
        """A method, or an attribute, whose result JSON can hold."""
        member = getattr(self._engine, name)
        result = member(**arguments) if callable(member) else member
        if isinstance(result, bytes):
            result = result.decode("latin-1")
        self.answer({"result": sorted(result) if isinstance(result, frozenset) else result})

    def _logits(self, ids: list[int], first: int) -> None:
        self._send_rows(self._engine.logits(ids, first=first, copy=False))

    def _send_rows(self, rows: F32) -> None:
        self._memory.rows(*rows.shape)[...] = rows
        self.answer({"rows": rows.shape[0], "columns": rows.shape[1]})

    def _next_part(
        self, ids: list[int] | None, part: int, spans: list[list[int]] | None = None
    ) -> None:
        """The next rows of `logits_in_parts`; with `ids`, the first of a new text."""
        if ids is not None:
            self._parts = self._engine.logits_in_parts(ids, part=part, spans=spans)
        rows = next(self._parts, None)
        if rows is None:
            self.answer({"rows": 0})
            return
        self._send_rows(rows)

    def _generate(
        self,
        generate: Callable[..., Iterator[str]],
        stream: int,
        sampling: dict[str, Any],
        **request: Any,
    ) -> None:
        engine: Engine = self._engine
        texts = generate(sampling=Sampling(**sampling), **request)
        for text in texts:
            self.answer({"text": text, "last": asdict(engine.last)})
            if self._requests.cancelled >= stream:
                break
        self.answer({"end": True, "last": asdict(engine.last)})


def load(opener: Callable[..., Any], path: str, options: dict[str, Any]) -> Any:
    """The engine that a runtime's `opener` makes of files which it checks first.

    Raises:
        ChangedError: A file changed in between: what was read may not be what was checked.
    """
    others = [*(options.get("adapters") or ()), *filter(None, [options.get("mmproj")])]
    states = FileStates(map(Path, [path, *others]))
    engine = opener(path, **options)
    try:
        states.refuse_changes()
    except KannaError:
        engine.close()
        raise
    return engine


def _limit_memory() -> None:
    """No more than this machine has: what a model's file asks for beyond that is an error."""
    memory_limits.lower_in_oom_order()
    if not memory_limits.has_gpu():
        here = memory()
        memory_limits.limit_memory(here.total + here.swap)


def main() -> int:
    """Answer requests until standard input closes."""
    # Ctrl-C reaches the whole group of processes: the one that asks decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Whatever a library prints goes to standard error, which is shown if this process dies.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    processes.mark_disposable()
    _limit_memory()
    if len(sys.argv) != 2:
        raise UsageError("this process is started by kanna itself")
    Server(SharedMemory.attach(sys.argv[1]), Requests(), answers).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
