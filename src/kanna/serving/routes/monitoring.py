"""Routes for probes, operators and Prometheus."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from kanna.serving import gauges
from kanna.serving.gateway import Gateway


def router(gateway: Gateway) -> APIRouter:
    """/health, /ready, /status and /metrics."""
    routes, pool = APIRouter(), gateway.pool

    @routes.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @routes.get("/ready")
    async def ready() -> Response:
        """200 when every loaded model answers; models that are loaded on demand count as ready."""
        waiting = [
            model.name
            for model in pool.models.values()
            if model.backend and model.backend.main.state != "ready"
        ]
        status = {"status": "starting" if waiting else "ok", "waiting": waiting}
        return Response(json.dumps(status), 503 if waiting else 200, media_type="application/json")

    @routes.get("/status")
    async def status(request: Request) -> list[dict[str, Any]]:
        """Models, engines, memory, queue."""
        await gateway.authorize(request, "metrics")
        return await asyncio.to_thread(pool.status)

    @routes.get("/metrics")
    async def metrics(request: Request) -> Response:
        await gateway.authorize(request, "metrics")
        await gauges.update(pool)
        return Response(gateway.metrics.exposition(), media_type="text/plain; version=0.0.4")

    return routes
