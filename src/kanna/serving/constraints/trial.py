"""A process of `trial_child`, from the gateway's side."""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import suppress

from kanna._util.interpreter import module_command
from kanna.serving.launch import environment

_MAX_LINE = 1 << 16
_START_TIME, _ANSWER_TIME = 60.0, 40.0
"""Seconds in which it must be up, and must answer; it limits its own time of the processor."""


class TrialProcess:
    """Tries one constraint after another, for one artefact.

    Args:
        engine: Name of the engine.
        path: The artefact.
    """

    def __init__(self, engine: str, path: str) -> None:
        self._key = (engine, path)
        self._process: asyncio.subprocess.Process | None = None
        self._came_up: bool | None = None

    def serves(self, engine: str, path: str) -> bool:
        """Whether it was started for that engine and artefact."""
        return self._key == (engine, path)

    @property
    def ended(self) -> bool:
        """Whether its process has ended."""
        return self._process is not None and self._process.returncode is not None

    async def attempt(self, kind: str, text: str) -> str:
        """Compile a constraint.

        Returns:
            Why it may not go to the engine, or "". What the compiler refuses at once may: the
            engine says it in its own words.
        """
        if self._came_up is None:
            self._came_up = await self._start()
        if not self._came_up:
            return ""  # it cannot be tried here, and was measured
        process = self._process
        assert process and process.stdin and process.stdout
        try:
            process.stdin.write(json.dumps({"kind": kind, "text": text}).encode() + b"\n")
            await process.stdin.drain()
            answer = await asyncio.wait_for(process.stdout.readline(), _ANSWER_TIME)
        except (OSError, asyncio.TimeoutError):
            answer = b""
        if answer:
            return ""
        self.kill()
        await process.wait()
        return (
            "compiling it and trying a few tokens takes more time or memory than one request may; "
            "make it smaller or less nested"
        )

    async def _start(self) -> bool:
        """Whether it came up."""
        self._process = await asyncio.create_subprocess_exec(
            *module_command("kanna.serving.constraints.trial_child", *self._key),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=environment() | {"OMP_NUM_THREADS": "1"},
            limit=_MAX_LINE,
        )
        assert self._process.stdout
        with suppress(asyncio.TimeoutError):
            if await asyncio.wait_for(self._process.stdout.readline(), _START_TIME):
                return True
        self.kill()
        return False

    def kill(self) -> None:
        """End it."""
        if self._process and self._process.returncode is None:
            with suppress(ProcessLookupError, OSError):
                os.kill(self._process.pid, 9)
