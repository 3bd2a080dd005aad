"""The models: loaded on demand inside a memory budget, the least recently used idle one unloaded for the next."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from kanna._util.units import format_size
from kanna.errors import MissingError, UsageError
from kanna.hardware import memory
from kanna.serving import engines
from kanna.serving.backend import Backend
from kanna.serving.canary import Canary, CanarySpec
from kanna.serving.engines.base import EngineConfig
from kanna.serving.metrics import Metrics
from kanna.serving.problems import ApiError, no_memory, unknown_model
from kanna.serving.settings import ModelSpec, Settings

FREE_SHARE = 0.8


@dataclass(slots=True, eq=False)
class Served:
    """A model under its public name; `backend` is None while it is not loaded."""

    spec: ModelSpec
    engine: str
    bytes: int
    backend: Backend | None = None
    canary: Canary | None = None
    loading: asyncio.Lock = field(default_factory=asyncio.Lock)
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def name(self) -> str:
        return self.spec.name


class Pool:
    def __init__(
        self,
        specs: list[ModelSpec],
        settings: Settings,
        metrics: Metrics,
        canaries: Sequence[CanarySpec] = (),
    ) -> None:
        self.settings, self.metrics = settings, metrics
        self.budget = (
            settings.memory if settings.memory is not None else int(memory().available * FREE_SHARE)
        )
        self.models: dict[str, Served] = {}
        self.extra: dict[
            str, Backend
        ] = {}  # what takes memory beside the models themselves: canaries, swaps
        self.session: aiohttp.ClientSession | None = None
        self._names: dict[str, Served] = {}
        self._room = asyncio.Lock()
        for spec in specs:
            self._register(spec)
        for canary in canaries:
            if canary.model not in self.models:
                raise UsageError(
                    f"a canary is for {canary.model!r}", expected=", ".join(self.models)
                )
            served = self.models[canary.model]
            served.canary = Canary(self, served, canary)
        self._loading: list[asyncio.Task[None]] = []

    def _register(self, spec: ModelSpec) -> None:
        engine = engines.for_artefact(spec.path)
        if not self.config(spec, engine.name).program and (todo := engine.missing()):
            raise MissingError(
                f"{spec.path} runs in {engine.name}, which is not installed here", todo=todo
            )
        _fits(spec, engine.name)
        needed = engine.footprint(self.config(spec, engine.name)).total
        if needed > self.budget:
            raise UsageError(
                f"{spec.path} needs {format_size(needed)} with {self.settings.slots} slots of {self.settings.context} "
                f"tokens, the budget is {format_size(self.budget)}",
                todo="lower --parallel or --context, raise --memory, or take a smaller artefact (`kanna fit`)",
            )
        served = Served(spec=spec, engine=engine.name, bytes=needed)
        for name in dict.fromkeys((spec.name, *spec.aliases)):
            if name in self._names:
                raise UsageError(
                    f"two models are named {name!r}", todo="give them names: NAME=PATH"
                )
            self._names[name] = served
        self.models[spec.name] = served
        self.metrics.begin(spec.name)

    def config(self, spec: ModelSpec, engine: str) -> EngineConfig:
        s = self.settings
        return EngineConfig(
            engine=engine,
            path=str(spec.path),
            name=spec.name,
            context=s.context,
            slots=s.slots,
            threads=s.threads,
            gpu_layers=s.gpu_layers,
            draft=str(spec.draft) if spec.draft else None,
            adapters=[str(a) for a in spec.adapters],
            program=s.llama_server if engine == "gguf" else None,
        )

    # Life

    def prestart(self, launched: subprocess.Popen[bytes] | None = None) -> None:
        """Start the first model before there is an event loop, in that process.

        It loads while the gateway imports.
        """
        first = next(iter(self.models.values()))
        first.backend = Backend(
            self.config(first.spec, first.engine), self.settings.limits, self.metrics
        )
        first.backend.main.spawn(launched)

    def start(self, session: aiohttp.ClientSession) -> None:
        self.session = session
        for served in self.models.values():
            if served.backend:
                served.backend.main.supervise(session)
        self._loading = [
            asyncio.create_task(s.canary.load()) for s in self.models.values() if s.canary
        ]

    async def stop(self) -> None:
        for task in self._loading:
            task.cancel()
        await asyncio.gather(*(b.stop() for b in self._backends()))

    def kill(self) -> None:
        for backend in self._backends():
            backend.kill()

    def _backends(self) -> list[Backend]:
        return [s.backend for s in self.models.values() if s.backend] + list(self.extra.values())

    # Requests

    def find(self, name: str) -> Served:
        """The model of that name or alias; raises ApiError 404."""
        served = self._names.get(name)
        if served is None:
            raise unknown_model(name, list(self.models))
        return served

    async def enter(self, served: Served) -> Backend:
        """A loaded, ready backend with a turn taken; the caller must call `leave` on it."""
        while True:
            backend = served.backend
            if backend is None:
                backend = await self.load(served)
            await backend.enter()
            if backend is served.backend:  # not unloaded or swapped while we waited
                break
            backend.leave()
        if backend.main.state != "ready":
            try:
                await backend.main.wait_ready(self.settings.limits.load_time)
            except BaseException:
                backend.leave()
                raise
        return backend

    @asynccontextmanager
    async def tried(
        self, served: Served, path: str, body: dict[str, Any]
    ) -> AsyncGenerator[Backend]:
        """`turn`, at the model's canary for its share of requests.

        Those are compared with the model afterwards.
        """
        canary = served.canary
        backend = canary.turn() if canary else None
        if canary is None or backend is None:
            async with self.turn(served) as backend:
                yield backend
            return
        await backend.enter()
        status = 200
        try:
            yield backend
        except ApiError as problem:
            status = problem.status
            raise
        finally:
            backend.leave()
            canary.failed(status)
            canary.compare(path, body)

    @asynccontextmanager
    async def turn(self, served: Served) -> AsyncGenerator[Backend]:
        """A place at a ready backend, given back however the work inside ends."""
        backend = await self.enter(served)
        try:
            yield backend
        finally:
            backend.leave()

    async def load(self, served: Served) -> Backend:
        async with served.loading:
            if served.backend is None:
                async with self._room:
                    await self._make_room(served.bytes, keep=served)
                    served.backend = await self._launch(served.spec, served.engine)
            return served.backend

    async def _launch(self, spec: ModelSpec, engine: str) -> Backend:
        assert self.session
        config = self.config(spec, engine)
        backend = await asyncio.to_thread(Backend, config, self.settings.limits, self.metrics)
        backend.main.supervise(self.session)
        return backend

    async def unload(self, served: Served) -> bool:
        """Take an idle model out of memory.

        False when it was not loaded. In use: waits until it is not.
        """
        backend, served.backend = served.backend, None
        if backend is None:
            return False
        await backend.drained()
        await backend.stop()
        return True

    async def helper(self, served: Served, backend: Backend, role: str) -> Any:
        """The scoring or embedding process of a model, with room made for it."""
        assert self.session
        if role in backend.engine.apart and role not in backend.processes:
            async with self._room:
                await self._make_room(backend.needs(role), keep=served)
                await backend.helper(role, self.session)
        return await backend.helper(role, self.session)

    async def swap(self, served: Served, path: Path) -> None:
        """Put another artefact under the same name; requests under way end on the old one."""
        engine = engines.for_artefact(path)
        if not self.config(served.spec, engine.name).program and (todo := engine.missing()):
            raise ApiError(400, f"{path} runs in {engine.name}, which is not installed: {todo}")
        spec = ModelSpec(
            name=served.spec.name,
            path=path,
            aliases=served.spec.aliases,
            draft=served.spec.draft,
            adapters=served.spec.adapters,
        )
        _fits(spec, engine.name)
        backend = await self.add_extra(f"swap:{served.name}", spec, engine.name)
        old, served.backend = served.backend, backend
        del self.extra[f"swap:{served.name}"]
        served.spec, served.engine, served.bytes = spec, engine.name, backend.footprint.total
        if old:
            self.extra[f"old:{served.name}:{id(old)}"] = old
            await old.drained()
            await old.stop()
            del self.extra[f"old:{served.name}:{id(old)}"]

    async def add_extra(self, label: str, spec: ModelSpec, engine: str) -> Backend:
        """Load an artefact beside the models.

        Raises ApiError when it does not fit or does not start.
        """
        if label in self.extra:
            raise ApiError(409, f"{label} is under way already")
        async with self._room:
            needed = engines.get(engine).footprint(self.config(spec, engine)).total
            await self._make_room(needed, keep=self._names.get(spec.name))
            backend = self.extra[label] = await self._launch(spec, engine)
        try:
            await backend.main.wait_ready(self.settings.limits.load_time)
        except BaseException:
            del self.extra[label]
            await backend.stop()
            raise
        return backend

    async def drop_extra(self, label: str) -> None:
        """Take it out when its last request has ended.

        Until then it takes memory, and is counted.
        """
        if backend := self.extra.get(label):
            await backend.drained()
            await backend.stop()
            self.extra.pop(label, None)

    # Memory

    @property
    def used(self) -> int:
        """Bytes of everything loaded, by the arithmetic of `kanna fit`."""
        return sum(b.bytes for b in self._backends())

    async def _make_room(self, needed: int, keep: Served | None) -> None:
        """Unload idle models, the least recently used first, until `needed` bytes fit.

        Raises ApiError 503.
        """
        while self.used + needed > self.budget:
            idle = [
                m
                for m in self.models.values()
                if m is not keep and m.backend and m.backend.in_use == 0
            ]
            if not idle:
                names = [m.name for m in self.models.values() if m.backend and m is not keep]
                raise no_memory(
                    f"{format_size(needed)} are needed and {format_size(max(0, self.budget - self.used))} of the "
                    f"budget of {format_size(self.budget)} are free; in use: {', '.join(names) or 'nothing else'}"
                )
            await self.unload(min(idle, key=lambda m: m.backend.last_used if m.backend else 0))

    async def unload_idle(self) -> None:
        """Once: unload what nobody used for `settings.idle` seconds."""
        now = time.monotonic()
        for served in self.models.values():
            backend = served.backend
            if backend and backend.in_use == 0 and now - backend.last_used > self.settings.idle:
                await self.unload(served)

    def status(self) -> list[dict[str, Any]]:
        """Of every model: state, engine, memory, queue."""
        return [_status(s) for s in self.models.values()]


def _fits(spec: ModelSpec, engine: str) -> None:
    """Raises UsageError for what goes with a model that its engine does not know of."""
    for what, given in (("adapters", spec.adapters), ("a draft model", spec.draft)):
        if given and engine != "gguf":
            raise UsageError(
                f"{spec.path} runs in {engine}, which takes no {what.removeprefix('a ')}",
                expected=f"{what} beside a GGUF file",
            )


def _status(served: Served) -> dict[str, Any]:
    import psutil

    backend = served.backend
    found: dict[str, Any] = {
        "name": served.name,
        "aliases": served.spec.aliases,
        "path": str(served.spec.path),
        "engine": served.engine,
        "state": "not loaded",
        "bytes": served.bytes,
        "adapters": [str(a) for a in served.spec.adapters],
    }
    if served.canary:
        found["canary"] = served.canary.status()
    if backend is None:
        return found
    resident = 0
    for process in backend.processes.values():
        if process.pid:
            try:
                resident += psutil.Process(process.pid).memory_info().rss
            except psutil.Error:
                continue
    return found | {
        "state": backend.main.state,
        "pid": backend.main.pid,
        "program": backend.main.facts.get("program", ""),
        "bytes": backend.bytes,
        "resident": resident,
        "helpers": [r for r in backend.processes if r != "generate"],
        "running": backend.gate.inside,
        "waiting": backend.gate.waiting,
        "slots": backend.config.slots,
        "context": backend.config.context,
        "restarts": sum(p.restarts for p in backend.processes.values()),
        "idle_seconds": 0.0 if backend.in_use else round(time.monotonic() - backend.last_used, 1),
    }
