"""Large bodies are read and written in another process, so that the gateway's loop goes on.

JSON of megabytes takes tens of milliseconds, in which an interpreter does nothing else, threads or
not. The other process parses and checks it, refuses what has too many values to be handed over, and
gives the checked body back in a form that is read in a fraction of that time.
"""

from __future__ import annotations

import marshal
from typing import Any

from pydantic import BaseModel

from kanna.serving import requests
from kanna.serving.problems import ApiError, overloaded
from kanna.serving.worker_process import WorkerBusyError, WorkerLostError, WorkerProcess

LARGE = 64 << 10
"""Bytes from which a body counts as large."""
CHECK, ENCODE = b"c", b"e"
"""What the process is asked to do with a body."""


class LargeBodies:
    """The process, started with the first large body and again when it ended."""

    def __init__(self) -> None:
        self._worker = WorkerProcess("kanna.serving.body_worker")

    async def check(self, kind: type[BaseModel], data: bytes) -> dict[str, Any]:
        """A body as `kind` has it, parsed and checked.

        Args:
            kind: What it has to be.
            data: As it came.

        Raises:
            ApiError: 400 or 413: it is not as `kind` has it, or has too many values; 503: other
                large bodies take their time.
        """
        if len(data) < LARGE:
            return requests.check(kind, requests.parse(data))
        name = f"{kind.__module__}:{kind.__qualname__}".encode()
        answer: Any = marshal.loads(await self._ask(CHECK + name + b"\0" + data))
        if isinstance(answer, dict):
            return answer
        status, message, code, param = answer
        raise ApiError(status, message, code=code, param=param)

    async def encode(self, body: dict[str, Any]) -> bytes:
        """A body as JSON.

        Raises:
            ApiError: 400: a number in it is none of JSON's; 503: other large bodies take their
                time.
        """
        if _about_size(body) < LARGE:
            return requests.encode(body)
        answer = await self._ask(ENCODE + marshal.dumps(body))
        if answer[:1] != b"=":
            raise ApiError(400, answer[1:].decode())
        return answer[1:]

    async def _ask(self, question: bytes) -> bytes:
        try:
            return await self._worker.ask(question)
        except WorkerBusyError:
            raise overloaded("other large bodies are being read") from None
        except WorkerLostError:
            raise ApiError(
                413, "the body takes too much time or memory to be read", code="body_too_complex"
            ) from None

    def kill(self) -> None:
        """End the process; the next large body starts another."""
        self._worker.kill()


def _about_size(value: Any) -> int:
    """Bytes of a value as JSON, or a little less; what is large need not be added up."""
    if isinstance(value, str):
        return len(value)
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if len(parts) > LARGE // 4:
        return LARGE
    size = len(parts) * 2
    for part in parts:
        if size >= LARGE:
            break
        size += _about_size(part)
    return size
