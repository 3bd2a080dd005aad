"""The engine processes of one loaded model, and the queue in front of them.

One process generates; roles such as scoring and embeddings may have their own, started when they
are first needed. Of a model that was made for vectors or scores, the one process makes these.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp

from kanna.errors import KannaError, MissingError, TemplateLimitError
from kanna.formats.file_states import FileStates
from kanna.serving import engines
from kanna.serving.admission import AdmissionQueue
from kanna.serving.engines.base import GENERATE, RANK, EngineConfig
from kanna.serving.engines.chat_check import PLAIN, ChatCheck
from kanna.serving.large_bodies import LargeBodies
from kanna.serving.metrics import Metrics
from kanna.serving.problems import ApiError
from kanna.serving.process import EngineProcess
from kanna.serving.settings import GatewayLimits

_rendering = ThreadPoolExecutor(4, thread_name_prefix="chat-check")


def _chat_check(config: EngineConfig) -> ChatCheck | None:
    """What renders the chats of an artefact under limits; None where its engine does."""
    engine = engines.get(config.engine)
    try:
        return engine.chat_check(Path(config.path)) if engine.chat_check else None
    except (KannaError, OSError):  # the engine says better what is wrong with the file
        return None


_MEMORY_SLACK = 2 << 30
"""Bytes of libraries and working space, besides what is reckoned for the model."""


class Backend:
    """The processes of one artefact.

    `acquire` before a request goes to the engine and `release` after it: nothing stops the engine
    in between.

    Attributes:
        bodies: Writes large bodies for the engine.
        admission: The queue in front of the engine.
        processes: By role.
        in_use: Requests, waiting or running, for which it stays loaded.
        last_used: When the last of them ended, by the monotonic clock.
    """

    def __init__(
        self,
        config: EngineConfig,
        limits: GatewayLimits,
        metrics: Metrics,
        bodies: LargeBodies | None = None,
    ) -> None:
        self.engine = engines.get(config.engine)
        self.bodies = bodies or LargeBodies()
        self._chat_check = _chat_check(config)
        self.config, self.limits, self.metrics = config, limits, metrics
        self._role_bytes = {
            role: self.engine.memory(replace(config, role=role)).total
            for role in (config.role, *self._helper_roles())
        }
        # A few more than there are slots are admitted: the engine takes the next one without
        # asking back.
        self.admission = AdmissionQueue(2 * config.slots, limits.queue, limits.queue_time)
        self.processes: dict[str, EngineProcess] = {config.role: self._new_process(config.role)}
        self.in_use = 0
        self.last_used = time.monotonic()
        self._idle = asyncio.Event()
        self._idle.set()

    async def check_chat(self, body: dict[str, Any]) -> None:
        """Render a chat under limits, where the engine's own program would render it without.

        Raises:
            ApiError: 400: the template takes more than it may, or the chat would end the engine;
                503: this machine has no memory or no time for it.
        """
        check = self._chat_check
        if check is None:
            return
        if check.begins_beyond_its_end(body):
            raise ApiError(
                400,
                "an answer that is held to a schema or to tools cannot begin with a token that "
                "ends it: the last message is the assistant's",
                param="messages",
            )
        try:
            await asyncio.get_running_loop().run_in_executor(_rendering, check.check, body)
        except TemplateLimitError as error:
            raise ApiError(400, error.found, code="chat_template_limit") from None
        except MissingError as error:
            raise ApiError(503, error.found) from None

    def _new_process(self, role: str) -> EngineProcess:
        # Roles map the same file: which of them copies the weights is the engine's affair.
        reckoned = max(self._role_bytes[self.config.role], self._role_bytes.get(role, 0))
        limit = self.config.memory_limit or _MEMORY_SLACK + 2 * reckoned
        return EngineProcess(
            replace(self.config, role=role, memory_limit=limit),
            self._look,
            on_death=lambda: self.metrics.count_restart(self.config.name, role),
            is_idle=lambda: self.in_use == 0,
        )

    def _look(self, config: EngineConfig) -> tuple[EngineConfig, FileStates]:
        """What to start of the files as they are now, and these files before anything is read."""
        files = (config.path, config.draft, *config.adapters)
        states = FileStates(Path(name) for name in files if name)
        self._chat_check = check = _chat_check(config)
        # The program renders its template when it starts, and would never be ready.
        return replace(config, chat_template=PLAIN if check and check.problem else None), states

    def _helper_roles(self) -> tuple[str, ...]:
        """Roles of further processes: a model for vectors has none, and no other can rank."""
        if self.config.role != GENERATE:
            return ()
        return tuple(role for role in self.engine.separate_roles if role != RANK)

    @property
    def main(self) -> EngineProcess:
        """The process that every model has: it generates, or makes vectors or scores."""
        return self.processes[self.config.role]

    @property
    def context(self) -> int:
        """Tokens per slot."""
        return self.config.context

    @property
    def bytes(self) -> int:
        """Memory of its processes."""
        return sum(self._role_bytes[role] for role in self.processes)

    def additional_bytes(self, role: str) -> int:
        """Memory that the process of a role would take; 0 when it runs or needs none."""
        return 0 if role in self.processes else self._role_bytes.get(role, 0)

    async def process_for(self, role: str, session: aiohttp.ClientSession) -> EngineProcess:
        """The ready process of a role, started when it is first needed.

        Raises:
            ApiError: 501: the engine has no such role; 503: it does not start.
        """
        if role == self.config.role:
            return self.main
        if role not in self.engine.roles:
            raise ApiError(
                501,
                f"{self.config.name!r} runs in {self.engine.name}, which cannot do this ({role})",
                "not_supported_error",
                "not_supported",
            )
        if role not in self.engine.separate_roles:
            return self.main
        if role not in self.processes:
            process = self._new_process(role)
            self.processes[role] = process
            process.supervise(session)
        process = self.processes[role]
        await process.wait_ready(self.limits.load_time)
        return process

    async def acquire(self) -> None:
        """Wait for a turn at the engine.

        Raises:
            ApiError: 503: the queue is full.
        """
        self._pin()
        try:
            await self.admission.acquire()
        except BaseException:
            self._unpin()
            raise

    def release(self) -> None:
        """End the turn."""
        self.admission.release()
        self._unpin()

    def _pin(self) -> None:
        self.in_use += 1
        self._idle.clear()

    def _unpin(self) -> None:
        self.in_use -= 1
        self.last_used = time.monotonic()
        if self.in_use == 0:
            self._idle.set()

    async def drained(self) -> None:
        """Return when no request uses it."""
        await self._idle.wait()

    async def stop(self) -> None:
        """End its processes for good."""
        for process in self.processes.values():
            await process.stop()

    def kill(self) -> None:
        """End its processes without an event loop."""
        for process in self.processes.values():
            process.kill()
