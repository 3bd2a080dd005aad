"""The models of the gateway by their names, and the slots at their engines."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp

from kanna.errors import UsageError
from kanna.serving import engines, registration
from kanna.serving.backend import Backend
from kanna.serving.canary import Canary, CanarySpec
from kanna.serving.engine_errors import CHAT
from kanna.serving.loader import ModelLoader
from kanna.serving.metrics import Metrics
from kanna.serving.problems import ApiError, unknown_model
from kanna.serving.served_model import ServedModel
from kanna.serving.settings import GatewaySettings, ModelSpec


class ModelPool:
    """Every model, by its names.

    Args:
        specs: What the operator asked to serve; the first one is loaded at once.
        settings: Of the gateway.
        metrics: Of the gateway.
        canaries: Artefacts to try on a share of a model's requests.

    Attributes:
        models: By name, in the order of `specs`.
        loader: Loads them.
    """

    def __init__(
        self,
        specs: list[ModelSpec],
        settings: GatewaySettings,
        metrics: Metrics,
        canaries: Sequence[CanarySpec] = (),
    ) -> None:
        self.settings, self.metrics = settings, metrics
        self.models: dict[str, ServedModel] = {}
        self.loader = ModelLoader(self.models, settings, metrics)
        self._names: dict[str, ServedModel] = {}
        self._canaries_loading: list[asyncio.Task[None]] = []
        for spec in specs:
            self.add(spec)
        for canary in canaries:
            if canary.model not in self.models:
                raise UsageError(
                    f"a canary is for {canary.model!r}", expected=", ".join(self.models)
                )
            model = self.models[canary.model]
            model.canary = Canary(self.loader, model, canary)

    def add(self, spec: ModelSpec) -> None:
        """Serve one more model; it is loaded when it is first asked for.

        Raises:
            KannaError: It cannot be served here, or another one has its name.
        """
        self._add(registration.register(spec, self.settings, self.loader.budget))

    async def remove(self, model: ServedModel) -> None:
        """Serve a model no longer; requests under way end first."""
        del self.models[model.name]
        self._names = {name: m for name, m in self._names.items() if m is not model}
        await self.loader.unload(model)

    def _add(self, model: ServedModel) -> None:
        for name in dict.fromkeys((model.name, *model.spec.aliases)):
            if name in self._names:
                raise UsageError(
                    f"two models are named {name!r}", todo="give them names: NAME=PATH"
                )
            self._names[name] = model
        self.models[model.name] = model
        self.metrics.initialize(model.name)

    # Lifecycle

    def prestart(self, launched: subprocess.Popen[bytes] | None = None) -> None:
        """Start the first model before there is an event loop: it loads while the gateway imports.

        Args:
            launched: A process that waits for its configuration; None: start one.
        """
        first = next(iter(self.models.values()), None)
        if first is None:
            return
        first.backend = self.loader.new_backend(first.spec, first.engine)
        first.backend.main.spawn(launched)

    def start(self, session: aiohttp.ClientSession) -> None:
        """Watch what runs, and load the canaries."""
        self.loader.session = session
        for model in self.models.values():
            if model.backend:
                model.backend.main.supervise(session)
        canaries = [model.canary for model in self.models.values() if model.canary]
        self._canaries_loading = [asyncio.create_task(canary.load()) for canary in canaries]

    async def stop(self) -> None:
        """End every engine."""
        self.loader.bodies.kill()
        self.loader.pictures.kill()
        for task in self._canaries_loading:
            task.cancel()
        await asyncio.gather(*(backend.stop() for backend in self.loader.backends()))

    def kill(self) -> None:
        """End every engine without an event loop."""
        self.loader.bodies.kill()
        self.loader.pictures.kill()
        for backend in self.loader.backends():
            backend.kill()

    # Requests

    def find(self, name: str) -> ServedModel:
        """The model of that name or alias; raises ApiError 404."""
        model = self._names.get(name)
        if model is None:
            raise unknown_model(name, list(self.models))
        return model

    async def acquire(self, model: ServedModel) -> Backend:
        """A ready backend with a slot acquired; the caller must `release` it."""
        while True:
            backend = model.backend or await self.loader.load(model)
            await backend.acquire()
            if backend is model.backend:  # not unloaded or swapped meanwhile
                break
            backend.release()
        if backend.main.state != "ready":
            try:
                await backend.main.wait_ready(self.settings.limits.load_time)
            except BaseException:
                backend.release()
                raise
        return backend

    @asynccontextmanager
    async def slot(self, model: ServedModel) -> AsyncGenerator[Backend]:
        """A slot at a ready backend, released however the work inside ends."""
        backend = await self.acquire(model)
        try:
            yield backend
        finally:
            backend.release()

    @asynccontextmanager
    async def slot_or_canary(
        self, model: ServedModel, path: str, body: dict[str, Any]
    ) -> AsyncGenerator[Backend]:
        """`slot`, at the model's canary for its share of requests.

        A request to the canary is compared with the model afterwards.
        """
        canary = model.canary
        backend = canary.take_request() if canary else None
        if canary is None or backend is None:
            async with self.slot(model) as backend:
                yield backend
            return
        if path == CHAT:
            try:
                await backend.check_chat(body)
            except ApiError:
                canary.record_status(500)
                raise
        await backend.acquire()
        status = 200
        try:
            yield backend
        except ApiError as problem:
            status = problem.status
            raise
        finally:
            backend.release()
            canary.record_status(status)
            canary.compare(path, body)

    async def swap(self, model: ServedModel, path: Path) -> None:
        """Put another artefact under a model's name; requests under way end on the old one.

        Raises:
            KannaError: The artefact cannot be served.
            ApiError: It does not fit or does not start.
        """
        engine = engines.for_artefact(path)
        spec = replace(model.spec, path=path)
        if todo := registration.missing(spec, engine, self.settings):
            raise ApiError(400, f"{path} runs in {engine.name}, which is not installed: {todo}")
        registration.check_companions(spec, engine)
        backend = await self.loader.add_extra(f"swap:{model.name}", spec, engine)
        old, model.backend = model.backend, backend
        del self.loader.extra[f"swap:{model.name}"]
        model.spec, model.engine, model.bytes = spec, engine, backend.bytes
        model.role = backend.config.role
        if old:
            label = f"old:{model.name}:{id(old)}"
            self.loader.extra[label] = old
            await self.loader.drop_extra(label)

    def status(self) -> list[dict[str, Any]]:
        """State, engine, memory and queue of every model."""
        return [model.status() for model in self.models.values()]
