"""Routes of devices: what should I have, give it to me, this is how it went."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from fastapi.responses import FileResponse, Response
from starlette.concurrency import run_in_threadpool

from kanna.fleet import problems
from kanna.fleet.bodies import PollBody, ReportBody
from kanna.fleet.controller import Instruction
from kanna.fleet.records import FleetDevice
from kanna.fleet.service import FleetService

Hash = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$")]


def router(service: FleetService) -> APIRouter:
    """Routes that want the key of a device."""
    routes, store = APIRouter(), service.store

    @routes.post("/v1/poll")
    async def poll(request: Request) -> Response:
        """The artefact that the device should have."""
        begin = time.perf_counter()
        instruction = await service.told(request, PollBody, asked)
        service.metrics.polls.inc()
        service.metrics.poll_seconds.observe(time.perf_counter() - begin)
        text = json.dumps(asdict(instruction) | {"poll_seconds": service.poll})
        return Response(text, media_type="application/json")

    def asked(device: FleetDevice, body: PollBody) -> Instruction:
        return service.controller.poll(device, body.current, body.number, body.outcome)

    @routes.post("/v1/reports", status_code=204)
    async def report(request: Request) -> Response:
        """How an instruction ended."""
        outcome = await service.told(request, ReportBody, reported)
        service.metrics.reports.labels(outcome).inc()
        return Response(status_code=204)

    def reported(device: FleetDevice, body: ReportBody) -> str:
        try:
            selftest = json.dumps(body.selftest, allow_nan=False) if body.selftest else None
        except ValueError:
            raise problems.bad("selftest: a number that is none") from None
        with store.transaction():
            service.controller.report(device, body.number, body.outcome, body.detail, selftest)
            if body.current != device.reported:
                store.heard(device.id, body.current)
        return body.outcome

    @routes.get("/v1/artefacts/{digest}")
    async def artefact(request: Request, digest: Hash) -> dict[str, Any]:
        """A manifest as it was signed, and its signature."""
        texts = await service.device(request, lambda _: store.artefact(digest))
        if texts is None:
            raise problems.bad(f"nothing of {digest} was published", 404, "not_found")
        return {"manifest": texts[0], "signature": texts[1]}

    @routes.get("/v1/blobs/{digest}")
    async def blob(request: Request, digest: Hash) -> Response:
        """A file, or a range of it."""
        await service.device(request, lambda _: None)
        path = service.blobs.path(digest)
        if not path.is_file():
            if store.shared:  # another server has it, and this one may get it yet
                lacks = f"this server does not have {digest}: servers share --state, too"
                raise problems.bad(lacks, 503, "not_here")
            raise problems.bad(f"no file {digest}", 404, "not_found")
        headers = {"etag": f'"{digest}"'}
        return FileResponse(path, media_type="application/octet-stream", headers=headers)

    _files_in_pieces(routes, service)
    return routes


def _files_in_pieces(routes: APIRouter, service: FleetService) -> None:
    @routes.get("/v1/blobs/{digest}/pieces")
    async def pieces(request: Request, digest: Hash) -> Response:
        """What a file was cut into, so that a device fetches what it lacks alone."""
        await service.device(request, lambda _: None)
        text = await run_in_threadpool(service.blobs.pieces, digest)
        return Response(text, media_type="application/json")
