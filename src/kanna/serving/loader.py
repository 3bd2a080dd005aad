"""Loading models into a memory budget.

The least recently used idle model is unloaded for the next one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

import aiohttp

from kanna._util.units import format_size
from kanna.hardware import memory
from kanna.serving.backend import Backend
from kanna.serving.engines.base import EngineConfig, ServingEngine
from kanna.serving.large_bodies import LargeBodies
from kanna.serving.metrics import Metrics
from kanna.serving.picture_trial import PictureTrial
from kanna.serving.problems import ApiError, no_memory
from kanna.serving.process import EngineProcess
from kanna.serving.registration import engine_config
from kanna.serving.served_model import ServedModel
from kanna.serving.settings import GatewaySettings, ModelSpec

FREE_SHARE = 0.8
"""Share of the free memory that models may take by default."""


class ModelLoader:
    """What is loaded, and the memory it takes.

    Args:
        models: Every model by its name; the pool adds to it.
        settings: Of the gateway.
        metrics: Of the gateway.

    Attributes:
        budget: Bytes that loaded models may take together.
        extra: Backends besides those of the models: canaries, and models that are being swapped.
        bodies: Reads and writes large bodies.
        pictures: Decodes pictures on trial.
        session: For requests to engines; None before the gateway has started.
    """

    def __init__(
        self, models: Mapping[str, ServedModel], settings: GatewaySettings, metrics: Metrics
    ) -> None:
        self.models, self.settings, self.metrics = models, settings, metrics
        self.budget = (
            settings.memory if settings.memory is not None else int(memory().available * FREE_SHARE)
        )
        self.extra: dict[str, Backend] = {}
        self.session: aiohttp.ClientSession | None = None
        self.bodies = LargeBodies()
        self.pictures = PictureTrial()
        self._memory_lock = asyncio.Lock()

    def config(self, spec: ModelSpec, engine: ServingEngine) -> EngineConfig:
        """The configuration of a model's engine."""
        return engine_config(spec, engine, self.settings)

    def new_backend(self, spec: ModelSpec, engine: ServingEngine) -> Backend:
        """A backend whose engine is not started yet."""
        return Backend(self.config(spec, engine), self.settings.limits, self.metrics, self.bodies)

    def backends(self) -> list[Backend]:
        """Everything that is loaded."""
        return [m.backend for m in self.models.values() if m.backend] + list(self.extra.values())

    async def load(self, model: ServedModel) -> Backend:
        """Start a model's engine, unless it runs."""
        async with model.loading:
            if model.backend is None:
                async with self._memory_lock:
                    await self._free_memory(model.bytes, keep=model)
                    model.backend = await self._launch(model.spec, model.engine)
            return model.backend

    async def _launch(self, spec: ModelSpec, engine: ServingEngine) -> Backend:
        assert self.session
        backend = await asyncio.to_thread(self.new_backend, spec, engine)
        backend.main.supervise(self.session)
        return backend

    async def unload(self, model: ServedModel) -> bool:
        """Take a model out of memory when no request uses it; False when it was not loaded."""
        backend, model.backend = model.backend, None
        if backend is None:
            return False
        await backend.drained()
        await backend.stop()
        return True

    async def unload_idle(self) -> None:
        """Unload what nobody used for `settings.idle` seconds."""
        now = time.monotonic()
        for model in self.models.values():
            backend = model.backend
            if backend and backend.in_use == 0 and now - backend.last_used > self.settings.idle:
                await self.unload(model)

    async def add_extra(self, label: str, spec: ModelSpec, engine: ServingEngine) -> Backend:
        """Load an artefact besides the models; it is ready on return.

        Raises:
            ApiError: It does not fit or does not start.
        """
        if label in self.extra:
            raise ApiError(409, f"{label} is under way already")
        async with self._memory_lock:
            needed = engine.memory(self.config(spec, engine)).total
            await self._free_memory(needed, keep=self.models.get(spec.name))
            backend = self.extra[label] = await self._launch(spec, engine)
        try:
            await backend.main.wait_ready(self.settings.limits.load_time)
        except BaseException:
            del self.extra[label]
            await backend.stop()
            raise
        return backend

    async def drop_extra(self, label: str) -> None:
        """Unload it when its last request has ended; until then its memory is counted."""
        if backend := self.extra.get(label):
            await backend.drained()
            await backend.stop()
            self.extra.pop(label, None)

    async def process_for(self, model: ServedModel, backend: Backend, role: str) -> EngineProcess:
        """The process of a role, for which memory is freed when it has to be started."""
        assert self.session
        if backend.additional_bytes(role):
            async with self._memory_lock:
                await self._free_memory(backend.additional_bytes(role), keep=model)
                await backend.process_for(role, self.session)
        return await backend.process_for(role, self.session)

    @property
    def used(self) -> int:
        """Bytes of everything loaded, by the arithmetic of `kanna fit`."""
        return sum(backend.bytes for backend in self.backends())

    async def _free_memory(self, needed: int, keep: ServedModel | None) -> None:
        """Unload idle models, the least recently used first, until `needed` bytes fit.

        Raises:
            ApiError: 503: what is loaded is in use.
        """
        while self.used + needed > self.budget:
            others = [
                (model, model.backend)
                for model in self.models.values()
                if model.backend and model is not keep
            ]
            idle = [(model, backend) for model, backend in others if backend.in_use == 0]
            if not idle:
                free = format_size(max(0, self.budget - self.used))
                names = ", ".join(model.name for model, _ in others) or "nothing else"
                raise no_memory(
                    f"{format_size(needed)} are needed and {free} of the budget of "
                    f"{format_size(self.budget)} are free; in use: {names}"
                )
            oldest, _ = min(idle, key=lambda item: item[1].last_used)
            await self.unload(oldest)
