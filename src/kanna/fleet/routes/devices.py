"""Routes of devices: what should I have, give it to me, this is how it went."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from fastapi.responses import FileResponse, Response

from kanna.fleet import problems
from kanna.fleet.bodies import PollBody, ReportBody
from kanna.fleet.service import FleetService

Hash = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$")]


def router(service: FleetService) -> APIRouter:
    """Routes that want the key of a device."""
    routes, store = APIRouter(), service.store

    @routes.post("/v1/poll")
    async def poll(request: Request) -> dict[str, Any]:
        """The artefact that the device should have."""
        begin = time.perf_counter()
        device = await service.device(request)
        body = await service.body(request, PollBody)
        instruction = await service.call(
            lambda: service.controller.poll(device, body.current, body.number, body.outcome)
        )
        service.metrics.polls.inc()
        service.metrics.poll_seconds.observe(time.perf_counter() - begin)
        return asdict(instruction) | {"poll_seconds": service.poll}

    @routes.post("/v1/reports", status_code=204)
    async def report(request: Request) -> Response:
        """How an instruction ended."""
        device = await service.device(request)
        body = await service.body(request, ReportBody)
        try:
            selftest = json.dumps(body.selftest, allow_nan=False) if body.selftest else None
        except ValueError:
            raise problems.bad("selftest: a number that is none") from None
        await service.call(
            lambda: service.controller.report(
                device, body.number, body.outcome, body.detail, selftest
            )
        )
        if body.current != device.reported:
            await service.call(lambda: store.heard(device.id, body.current))
        service.metrics.reports.labels(body.outcome).inc()
        return Response(status_code=204)

    @routes.get("/v1/artefacts/{digest}")
    async def artefact(request: Request, digest: Hash) -> dict[str, Any]:
        """A manifest as it was signed, and its signature."""
        await service.device(request)
        texts = await service.call(lambda: store.artefact(digest))
        if texts is None:
            raise problems.bad(f"nothing of {digest} was published", 404, "not_found")
        return {"manifest": texts[0], "signature": texts[1]}

    @routes.get("/v1/blobs/{digest}")
    async def blob(request: Request, digest: Hash) -> Response:
        """A file, or a range of it."""
        await service.device(request)
        path = service.blobs.path(digest)
        if not path.is_file():
            raise problems.bad(f"no file {digest}", 404, "not_found")
        headers = {"etag": f'"{digest}"'}
        return FileResponse(path, media_type="application/octet-stream", headers=headers)

    return routes
