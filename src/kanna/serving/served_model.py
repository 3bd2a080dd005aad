"""A model under its public name, loaded or not."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kanna.serving.backend import Backend
from kanna.serving.engines.base import GENERATE, ServingEngine
from kanna.serving.settings import ModelSpec

if TYPE_CHECKING:
    from kanna.serving.canary import Canary


@dataclass(slots=True, eq=False)
class ServedModel:
    """A model that requests can name.

    Attributes:
        spec: What the operator asked to serve.
        engine: What runs it.
        bytes: Memory that it takes when it is loaded.
        role: What it is for: `generate`, `embed` or `rank`.
        backend: Its processes; None while it is not loaded.
        canary: Another artefact that is tried on a share of its requests.
        loading: Held while it is loaded.
        created: When the gateway began to serve it, in seconds since 1970.
    """

    spec: ModelSpec
    engine: ServingEngine
    bytes: int
    role: str = GENERATE
    backend: Backend | None = None
    canary: Canary | None = None
    loading: asyncio.Lock = field(default_factory=asyncio.Lock)
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def name(self) -> str:
        """As it stands in requests and answers."""
        return self.spec.name

    def status(self) -> dict[str, Any]:
        """State, engine, memory and queue, as `/status` shows them."""
        status: dict[str, Any] = {
            "name": self.name,
            "aliases": self.spec.aliases,
            "path": str(self.spec.path),
            "engine": self.engine.name,
            "state": "not loaded",
            "bytes": self.bytes,
            "adapters": [str(adapter) for adapter in self.spec.adapters],
            "mmproj": str(self.spec.mmproj) if self.spec.mmproj else None,
        }
        if self.canary:
            status["canary"] = self.canary.status()
        return status | _backend_status(self.backend) if self.backend else status


def _backend_status(backend: Backend) -> dict[str, Any]:
    idle_seconds = 0.0 if backend.in_use else round(time.monotonic() - backend.last_used, 1)
    return {
        "state": backend.main.state,
        "pid": backend.main.pid,
        "program": backend.main.announced.get("program", ""),
        "bytes": backend.bytes,
        "resident": _resident_bytes(backend),
        "helpers": [role for role in backend.processes if role != backend.config.role],
        "running": backend.admission.running,
        "waiting": backend.admission.waiting,
        "slots": backend.config.slots,
        "context": backend.config.context,
        "restarts": sum(process.restarts for process in backend.processes.values()),
        "idle_seconds": idle_seconds,
    }


def _resident_bytes(backend: Backend) -> int:
    import psutil

    resident = 0
    for process in backend.processes.values():
        if process.pid:
            try:
                resident += psutil.Process(process.pid).memory_info().rss
            except psutil.Error:
                continue
    return resident
