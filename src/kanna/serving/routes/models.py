"""Routes of the models, for a key with the scope `admin`: what runs, hot swap, adapters."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from kanna.errors import KannaError
from kanna.serving import adapter_names, http_client
from kanna.serving.backend import Backend
from kanna.serving.gateway import Gateway
from kanna.serving.http_client import EngineConnectionError
from kanna.serving.openapi import BodySchemas
from kanna.serving.problems import ApiError, engine_down


class Swap(BaseModel):
    """The body of a swap."""

    model_config = ConfigDict(extra="forbid")

    path: str = Field(min_length=1, max_length=4096)


class AdapterScale(BaseModel):
    """An adapter, by its id or its name, and its scale."""

    model_config = ConfigDict(extra="forbid")

    id: int | None = Field(None, ge=0)
    name: str | None = Field(None, max_length=256)
    scale: float = Field(ge=-10, le=10)


class AdapterScales(BaseModel):
    """Scales of adapters; those that are not named are switched off."""

    model_config = ConfigDict(extra="forbid")

    adapters: list[AdapterScale]


def router(gateway: Gateway, schemas: BodySchemas) -> APIRouter:
    """Routes under /admin/models."""
    routes, pool = APIRouter(prefix="/admin/models"), gateway.pool

    @routes.get("")
    async def listed(request: Request) -> dict[str, Any]:
        """State, engine, memory and queue of every model."""
        await gateway.authorize(request, "admin")
        return {"models": await asyncio.to_thread(pool.status)}

    @routes.post("/{name}/swap", openapi_extra=schemas.describe(Swap))
    async def swap(request: Request, name: str) -> dict[str, Any]:
        """Put another artefact under a name.

        Answers when requests go to it and none is left on the old one.
        """
        await gateway.authorize(request, "admin")
        body = await gateway.read_body(request, Swap)
        model = pool.find(name)
        path = Path(body["path"])
        if not path.is_absolute():
            raise ApiError(400, f"{body['path'][:200]!r} is no absolute path", param="path")
        try:
            await pool.swap(model, path)
        except (KannaError, OSError) as error:
            message = error.found if isinstance(error, KannaError) else str(error)
            raise ApiError(400, message, code="cannot_serve", param="path") from None
        return {"name": model.name, "path": str(path), "engine": model.engine.name}

    @routes.get("/{name}/adapters")
    async def adapters(request: Request, name: str) -> dict[str, Any]:
        """Adapters of a model, with their scales."""
        await gateway.authorize(request, "admin")
        async with pool.slot(pool.find(name)) as backend:
            return {"adapters": await _adapters(backend)}

    @routes.put("/{name}/adapters", openapi_extra=schemas.describe(AdapterScales))
    async def switch(request: Request, name: str) -> Response:
        """Set the scales of adapters; a request may also have its own, in `lora`."""
        await gateway.authorize(request, "admin")
        body = await gateway.read_body(request, AdapterScales)
        async with pool.slot(pool.find(name)) as backend:
            paths = [Path(path) for path in backend.config.adapters]
            scales = adapter_names.by_id(body["adapters"], paths, "adapters")
            if unknown := [one["id"] for one in scales if one["id"] >= len(paths)]:
                raise ApiError(404, f"{name[:100]!r} has no adapter {unknown[0]}", code="not_found")
            await _set_scales(backend, scales)
            return Response(
                json.dumps({"adapters": await _adapters(backend)}), media_type="application/json"
            )

    return routes


async def _adapters(backend: Backend) -> list[dict[str, Any]]:
    """The adapters of an engine, with their scales."""
    if not backend.config.adapters:
        return []
    adapters = await _ask_engine(backend, "GET")
    names = adapter_names.names([Path(path) for path in backend.config.adapters])
    return [
        {"id": a["id"], "name": names[a["id"]], "path": a["path"], "scale": a["scale"]}
        for a in adapters
    ]


async def _set_scales(backend: Backend, scales: list[dict[str, Any]]) -> None:
    if backend.config.adapters:
        await _ask_engine(backend, "POST", json.dumps(scales).encode())


async def _ask_engine(backend: Backend, method: str, body: bytes = b"") -> Any:
    process = backend.main
    try:
        response = await http_client.request(
            process.port, "/lora-adapters", process.raw_headers, body, method=method
        )
        try:
            value = json.loads(await response.read())
        finally:
            response.close()
    except (EngineConnectionError, ValueError) as error:
        raise engine_down(backend.config.name) from error
    if response.status != 200:
        raise ApiError(502, "the engine does not switch adapters", "server_error", "engine_failed")
    return value
