"""Models of a running gateway, for a key with the scope `admin`: what runs, hot swap, adapters."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from kanna.errors import KannaError
from kanna.serving import http_client
from kanna.serving.http_client import LineError
from kanna.serving.problems import ApiError, engine_down

if TYPE_CHECKING:
    from kanna.serving.backend import Backend
    from kanna.serving.description import Bodies
    from kanna.serving.gateway import Gateway


class Swap(BaseModel):
    model_config = ConfigDict(extra="forbid")

    path: str = Field(min_length=1, max_length=4096)


class Adapter(BaseModel):
    model_config = ConfigDict(extra="forbid")

    id: int = Field(ge=0)
    scale: float = Field(ge=-10, le=10)


class Adapters(BaseModel):
    """What is not named is switched off."""

    model_config = ConfigDict(extra="forbid")

    adapters: list[Adapter]


def router(gateway: Gateway, described: Bodies) -> APIRouter:
    """Routes under /admin/models."""
    routes, pool = APIRouter(prefix="/admin/models"), gateway.pool

    @routes.get("")
    async def listed(request: Request) -> dict[str, Any]:
        gateway.admit(request, "admin")
        return {"models": await asyncio.to_thread(pool.status)}

    @routes.post("/{name}/swap", openapi_extra=described.of(Swap))
    async def swap(request: Request, name: str) -> dict[str, Any]:
        """Another artefact under the same name.

        Returns when requests go to it and none is left on the old one.
        """
        gateway.admit(request, "admin")
        body = await gateway.body(request, Swap)
        served = pool.find(name)
        path = Path(body["path"])
        if not path.is_absolute():
            raise ApiError(400, f"{body['path'][:200]!r} is no absolute path", param="path")
        try:
            await pool.swap(served, path)
        except (KannaError, OSError) as error:
            said = error.found if isinstance(error, KannaError) else str(error)
            raise ApiError(400, said, code="cannot_serve", param="path") from None
        return {"name": served.name, "path": str(path), "engine": served.engine}

    @routes.get("/{name}/adapters")
    async def adapters(request: Request, name: str) -> dict[str, Any]:
        gateway.admit(request, "admin")
        async with pool.turn(pool.find(name)) as backend:
            return {"adapters": await _lora(backend)}

    @routes.put("/{name}/adapters", openapi_extra=described.of(Adapters))
    async def switch(request: Request, name: str) -> Response:
        """Scales by id; a request may also carry its own, in `lora`."""
        gateway.admit(request, "admin")
        body = await gateway.body(request, Adapters)
        async with pool.turn(pool.find(name)) as backend:
            known = {a["id"] for a in await _lora(backend)}
            if unknown := [a["id"] for a in body["adapters"] if a["id"] not in known]:
                raise ApiError(404, f"{name[:100]!r} has no adapter {unknown[0]}", code="not_found")
            await _lora(backend, body["adapters"])
            return Response(
                json.dumps({"adapters": await _lora(backend)}), media_type="application/json"
            )

    return routes


async def _lora(backend: Backend, wanted: list[dict[str, Any]] | None = None) -> Any:
    """The adapters of an engine, after setting their scales when `wanted` says so."""
    if not backend.config.adapters:
        return []
    process = backend.main
    body = b"" if wanted is None else json.dumps(wanted).encode()
    try:
        method = "GET" if wanted is None else "POST"
        answer = await http_client.send(process.port, method, "/lora-adapters", process.head, body)
        try:
            found = json.loads(await answer.read())
        finally:
            answer.close()
    except (LineError, ValueError) as error:
        raise engine_down(backend.config.name) from error
    if answer.status != 200:
        raise ApiError(502, "the engine does not switch adapters", "server_error", "engine_failed")
    if wanted is not None:
        return found
    return [{"id": a["id"], "path": a["path"], "scale": a["scale"]} for a in found]
