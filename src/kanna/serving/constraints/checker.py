"""Whether a request's constraints may go to an engine: measured, then compiled on trial."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from collections import OrderedDict
from contextlib import suppress
from typing import Any

from kanna.serving.constraints import kinds
from kanna.serving.constraints.kinds import Constraint
from kanna.serving.constraints.limits import ConstraintError
from kanna.serving.constraints.trial import TrialProcess
from kanna.serving.engines.base import EngineConfig, ServingEngine
from kanna.serving.problems import ApiError, overloaded

_MAX_KNOWN = 4096
"""Constraints whose verdict is kept."""
_PROCESSES = 2
"""Trials at a time, of all engines together."""
_WAIT = 30.0
"""Seconds that a request may wait for its trial."""
_LARGE = 16 << 10
"""Characters from which on a constraint is measured in a thread."""


class ConstraintChecker:
    """Refuses what no engine should be asked to compile.

    A verdict is kept, so that a schema is tried once: what comes again costs a hash.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, str] = OrderedDict()
        self._idle: list[TrialProcess] = []
        self._turns = asyncio.Semaphore(_PROCESSES)
        self._turn_of: dict[str, asyncio.Lock] = {}

    async def check(
        self, engine: ServingEngine, config: EngineConfig, body: dict[str, Any], client: str
    ) -> None:
        """Return when a request's constraints may go to the engine.

        Args:
            engine: That is going to compile them.
            config: Of it.
            body: Of the request, checked.
            client: Who sent it; each client has one trial at a time.

        Raises:
            ApiError: 400: a constraint is too large or takes too much; 503: too many wait.
        """
        for param in kinds.params_of(body):
            await self._measure(body, param)
        if engine.constraint_trial is None or sys.platform == "win32":
            return
        for constraint in kinds.constraints_of(body, every_tool=not engine.forces_tool_calls):
            key = _key(engine.name, config.path, constraint)
            if key not in self._known:
                await self._try(engine, config, constraint, key, client)
            self._known.move_to_end(key)
            if problem := self._known[key]:
                raise _refusal(constraint.param, problem)

    def stop(self) -> None:
        """End the processes of trials."""
        while self._idle:
            self._idle.pop().kill()

    async def _measure(self, body: dict[str, Any], param: str) -> None:
        try:
            if _is_large(body[param]):
                await asyncio.to_thread(kinds.measure, body, param)
            else:
                kinds.measure(body, param)
        except ConstraintError as error:
            raise _refusal(param, str(error)) from None

    async def _try(
        self,
        engine: ServingEngine,
        config: EngineConfig,
        constraint: Constraint,
        key: bytes,
        client: str,
    ) -> None:
        turn = self._turn_of.setdefault(client, asyncio.Lock())
        try:
            await asyncio.wait_for(turn.acquire(), _WAIT)
            try:
                await asyncio.wait_for(self._turns.acquire(), _WAIT)
                try:
                    if key not in self._known:
                        self._keep(key, await self._attempt(engine, config, constraint))
                finally:
                    self._turns.release()
            finally:
                turn.release()
        except asyncio.TimeoutError:
            raise overloaded("too many schemas wait for their trial", 5) from None
        finally:
            if not turn.locked():
                self._turn_of.pop(client, None)

    async def _attempt(
        self, engine: ServingEngine, config: EngineConfig, constraint: Constraint
    ) -> str:
        """Why a constraint may not go to the engine, or ""."""
        process = self._take(engine, config)
        try:
            problem = await process.attempt(constraint.kind, constraint.text)
        except BaseException:
            process.kill()  # whoever waited has left
            raise
        if not process.ended:
            self._idle.append(process)
        return problem

    def _keep(self, key: bytes, problem: str) -> None:
        self._known[key] = problem
        while len(self._known) > _MAX_KNOWN:
            self._known.popitem(last=False)

    def _take(self, engine: ServingEngine, config: EngineConfig) -> TrialProcess:
        for process in self._idle:
            if process.serves(engine.name, config.path):
                self._idle.remove(process)
                if not process.ended:
                    return process
        while len(self._idle) >= _PROCESSES:
            self._idle.pop(0).kill()
        return TrialProcess(engine.name, config.path)


def _is_large(value: Any) -> bool:
    with suppress(RecursionError):
        return len(value if isinstance(value, str) else json.dumps(value)) > _LARGE
    return True


def _key(engine: str, path: str, constraint: Constraint) -> bytes:
    text = "\0".join((engine, path, constraint.kind, constraint.text))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _refusal(param: str, problem: str) -> ApiError:
    return ApiError(400, f"{param}: {problem}", code="constraint_too_large", param=param)
