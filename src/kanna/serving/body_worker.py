"""The process that reads and writes large bodies: `python -m kanna.serving.body_worker`.

On its standard input it gets questions of a length in eight bytes, and answers in the same way.
"""

from __future__ import annotations

import gc
import importlib
import marshal
import os
import signal
import sys
from contextlib import suppress
from typing import Any

from kanna.serving import requests
from kanna.serving.large_bodies import CHECK
from kanna.serving.problems import ApiError

MAX_VALUES, MAX_CONTAINERS = 300_000, 50_000
"""Values of a body, and objects and lists among them."""
_MEMORY = 2 << 30


def answer(question: bytes) -> bytes:
    """The answer to one question."""
    if question[:1] != CHECK:
        try:
            return b"=" + requests.encode(marshal.loads(question[1:]))
        except ApiError as problem:
            return b"!" + problem.message.encode()
    name, _, data = question[1:].partition(b"\0")
    try:
        return marshal.dumps(_checked(name.decode(), data))
    except ApiError as problem:
        return marshal.dumps((problem.status, problem.message, problem.code, problem.param))
    except MemoryError:
        return marshal.dumps((413, "the body takes too much memory", "body_too_complex", None))


def _checked(name: str, data: bytes) -> dict[str, Any]:
    module, _, kind = name.partition(":")
    value = requests.parse(data)
    del data
    _measure(value)
    return requests.check(getattr(importlib.import_module(module), kind), value)


def _measure(value: Any) -> None:
    """Refuse a body that would take long to hand over; raises ApiError 413."""
    waiting, values, containers = [value], 0, 0
    while waiting:
        part = waiting.pop()
        if not isinstance(part, dict | list):
            continue
        containers += 1
        values += len(part)
        if values > MAX_VALUES or containers > MAX_CONTAINERS:
            raise ApiError(
                413,
                f"the body has more than {MAX_VALUES} values, or {MAX_CONTAINERS} objects and "
                "lists",
                code="body_too_complex",
            )
        waiting += part.values() if isinstance(part, dict) else part


def _prepare() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.disable()  # JSON has no cycles, and looking for them in a million lists takes seconds
    with suppress(AttributeError, OSError):
        os.nice(5)  # the gateway itself comes first
    with suppress(ImportError, OSError, ValueError):
        import resource

        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        most = _MEMORY if hard == resource.RLIM_INFINITY else min(_MEMORY, hard)
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))


def main() -> int:
    """Answer until the standard input ends."""
    _prepare()
    questions, answers = sys.stdin.buffer, sys.stdout.buffer
    while size := questions.read(8):
        given = answer(questions.read(int.from_bytes(size, "big")))
        answers.write(len(given).to_bytes(8, "big"))
        answers.write(given)
        answers.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
