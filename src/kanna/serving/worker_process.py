"""Another process that answers questions of the gateway's loop, within limits it sets itself.

It gets a length in eight bytes and a question on its standard input, and answers in the same way.
"""

from __future__ import annotations

import asyncio
from asyncio.subprocess import PIPE, Process
from contextlib import suppress

from kanna._util.interpreter import module_command
from kanna.serving.launch import environment

_SECONDS = 10.0
"""For one question; those at the same time wait for each other, three times as long at most."""
_BUFFER = 4 << 20


class WorkerBusyError(Exception):
    """Other questions take their time."""


class WorkerLostError(Exception):
    """The process ended over a question, or took too long."""


class WorkerProcess:
    """The process, started with the first question and again when it ended.

    Args:
        module: What it runs.
    """

    def __init__(self, module: str) -> None:
        self._module = module
        self._process: Process | None = None
        self._turn = asyncio.Lock()

    async def ask(self, question: bytes) -> bytes:
        """The answer to a question; raises WorkerBusyError, WorkerLostError."""
        try:
            await asyncio.wait_for(self._turn.acquire(), 3 * _SECONDS)
        except asyncio.TimeoutError:
            raise WorkerBusyError from None
        try:
            process = await self._started()
            return await asyncio.wait_for(_exchange(process, question), _SECONDS)
        except (OSError, asyncio.IncompleteReadError, asyncio.TimeoutError):
            self.kill()
            raise WorkerLostError from None
        except BaseException:  # nobody waits for its answer any more
            self.kill()
            raise
        finally:
            self._turn.release()

    async def _started(self) -> Process:
        if self._process is None or self._process.returncode is not None:
            self._process = await asyncio.create_subprocess_exec(
                *module_command(self._module),
                stdin=PIPE,
                stdout=PIPE,
                limit=_BUFFER,
                env=environment(),
            )
        return self._process

    def kill(self) -> None:
        """End the process; the next question starts another."""
        process, self._process = self._process, None
        if process is not None:
            with suppress(ProcessLookupError):
                process.kill()


async def _exchange(process: Process, question: bytes) -> bytes:
    assert process.stdin
    assert process.stdout
    process.stdin.write(len(question).to_bytes(8, "big"))
    process.stdin.write(question)
    await process.stdin.drain()
    size = int.from_bytes(await process.stdout.readexactly(8), "big")
    return await process.stdout.readexactly(size)
