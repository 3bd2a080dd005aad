"""Routes of operators: devices, artefacts, rollouts; and of those who only look."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response

from kanna.errors import KannaError
from kanna.fleet import manifest, problems
from kanna.fleet.access import OPERATOR, VIEWER
from kanna.fleet.blobs import SLICE
from kanna.fleet.bodies import ArtefactBody, NewDeviceBody, NewKeyBody, RolloutBody
from kanna.fleet.databases import TakenError
from kanna.fleet.manifest import FleetManifest
from kanna.fleet.records import FleetDevice
from kanna.fleet.rings import Ring
from kanna.fleet.routes.devices import Hash
from kanna.fleet.service import FleetService

_Number = Annotated[int, Path(ge=1, le=1 << 53)]
_Id = Annotated[str, Path(max_length=100)]
_Bytes = Annotated[int, Query(ge=0, le=manifest.LARGEST_FILE)]


def router(service: FleetService) -> APIRouter:
    """Routes that want the key of an operator, and /health."""
    routes = APIRouter()
    _looking(routes, service)
    _devices(routes, service)
    _artefacts(routes, service)
    _rollouts(routes, service)
    return routes


def _looking(routes: APIRouter, service: FleetService) -> None:
    @routes.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @routes.get("/v1/status")
    async def status(request: Request) -> dict[str, Any]:
        """Rollouts, artefacts, events."""
        await service.authorize(request, VIEWER)
        return await service.call(service.overview)

    @routes.get("/v1/devices")
    async def listed(
        request: Request,
        after: Annotated[str, Query(max_length=100)] = "",
        most: Annotated[int, Query(ge=1, le=1000)] = 1000,
    ) -> dict[str, Any]:
        """Devices in the order of their names."""
        await service.authorize(request, VIEWER)
        rows = await service.call(lambda: service.store.devices(after, most))
        return {"devices": [_shown(row) for row in rows]}

    @routes.get("/v1/rollouts/{number}")
    async def rollout(request: Request, number: _Number) -> dict[str, Any]:
        """One rollout."""
        await service.authorize(request, VIEWER)
        one = await service.call(lambda: service.store.rollout(number))
        if one is None:
            raise problems.bad(f"no rollout {number}", 404, "not_found")
        return await service.call(lambda: service.controller.describe(one))

    @routes.get("/metrics")
    async def metrics(request: Request) -> Response:
        await service.authorize(request, VIEWER)
        await service.call(lambda: service.metrics.update(service.store, 3 * service.poll))
        return Response(service.metrics.exposition(), media_type="text/plain; version=0.0.4")


def _shown(device: FleetDevice) -> dict[str, Any]:
    values = asdict(device)
    for hidden in ("key_hash", "key_id"):
        del values[hidden]
    return values


def _devices(routes: APIRouter, service: FleetService) -> None:
    @routes.post("/v1/devices", status_code=201)
    async def add(request: Request) -> dict[str, Any]:
        """Add a device; its key is in this answer and nowhere else."""
        await service.authorize(request, OPERATOR)
        body = await service.body(request, NewDeviceBody)
        key = await service.call(
            lambda: service.controller.add_device(
                body.id, target=body.target, ring=body.ring, days=body.days
            )
        )
        return {"id": body.id, "key": key}

    @routes.post("/v1/devices/{name}/key", status_code=201)
    async def renew(request: Request, name: _Id) -> dict[str, Any]:
        """Another key for a device."""
        await service.authorize(request, OPERATOR)
        body = await service.body(request, NewKeyBody)
        key = await service.call(lambda: service.controller.new_key(name, body.days))
        return {"id": name, "key": key}

    @routes.delete("/v1/devices/{name}", status_code=204)
    async def remove(request: Request, name: _Id) -> Response:
        """Forget a device."""
        await service.authorize(request, OPERATOR)
        await service.call(lambda: service.controller.remove_device(name))
        return Response(status_code=204)


def _artefacts(routes: APIRouter, service: FleetService) -> None:
    turns: dict[str, asyncio.Lock] = {}

    @routes.get("/v1/uploads/{digest}")
    async def have(request: Request, digest: Hash) -> dict[str, Any]:
        """How much of a file is here."""
        await service.authorize(request, OPERATOR)
        count, complete = service.blobs.have(digest)
        return {"have": count, "complete": complete}

    @routes.put("/v1/uploads/{digest}")
    async def receive(
        request: Request, digest: Hash, size: _Bytes, offset: _Bytes
    ) -> dict[str, Any]:
        """The next slice of a file."""
        await service.authorize(request, OPERATOR)
        data = await service.data(request, SLICE)
        async with turns.setdefault(digest, asyncio.Lock()):
            try:
                count, complete = await asyncio.to_thread(
                    service.blobs.append, digest, size, offset, data
                )
            except KannaError as error:
                raise problems.of(error) from None
        if complete:
            turns.pop(digest, None)
        return {"have": count, "complete": complete}

    @routes.get("/v1/manifests/{digest}")
    async def published(request: Request, digest: Hash) -> dict[str, Any]:
        """A manifest, its signature and its self-test."""
        await service.authorize(request, VIEWER)
        texts = await service.call(lambda: service.store.artefact(digest))
        if texts is None:
            raise problems.bad(f"nothing of {digest} was published", 404, "not_found")
        selftest = await asyncio.to_thread(_selftest, service, texts[0])
        return {"manifest": texts[0], "signature": texts[1], "selftest": selftest}

    @routes.post("/v1/artefacts", status_code=201)
    async def publish(request: Request) -> dict[str, Any]:
        """A manifest whose files are here."""
        await service.authorize(request, OPERATOR)
        body = await service.body(request, ArtefactBody, 2 * manifest.LARGEST_MANIFEST)
        try:
            described = manifest.read(body.manifest.encode(), manifest.FILE)
        except (KannaError, UnicodeEncodeError) as error:
            raise problems.bad(f"the manifest: {getattr(error, 'found', error)}") from None
        await service.call(lambda: _keep(service, described, body.signature))
        return {"digest": described.digest, "sequence": described.sequence}


def _selftest(service: FleetService, text: str) -> str:
    """The self-test that a manifest names; raises ApiError 404."""
    described = manifest.read(text.encode(), manifest.FILE)
    file = next(one for one in described.files if one.path == manifest.SELFTEST)
    path = service.blobs.path(file.sha256)
    if file.size > manifest.LARGEST_MANIFEST or not path.is_file():
        raise problems.bad("its self-test is not here", 404, "not_found")
    return path.read_text(encoding="utf-8", errors="replace")


def _keep(service: FleetService, described: FleetManifest, signature: str | None) -> None:
    """Keep a manifest all of whose files are here, and that is newer than all others."""
    for file in described.files:
        size, complete = service.blobs.have(file.sha256)
        if not complete or size != file.size:
            raise problems.bad(f"the file {file.path[:200]} is not here yet", 409, "incomplete")
    store = service.store
    with store.transaction():
        latest = store.artefacts(1)
        if latest and described.sequence <= latest[0]["sequence"]:
            raise problems.bad(
                f"sequence {described.sequence}, and {latest[0]['sequence']} was published",
                409,
                "older",
            )
        texts = described.data.decode(), signature
        try:
            store.add_artefact(
                described.digest, described.sequence, described.name, described.size, texts
            )
        except TakenError:
            raise problems.bad("it was published already", 409, "older") from None
        store.note("published", f"{described.name}: {described.digest}")


def _rollouts(routes: APIRouter, service: FleetService) -> None:
    @routes.post("/v1/rollouts", status_code=201)
    async def start(request: Request) -> dict[str, Any]:
        """Begin a rollout."""
        await service.authorize(request, OPERATOR)
        body = await service.body(request, RolloutBody)
        rings = tuple(Ring(**ring.model_dump()) for ring in body.rings)
        return await service.call(
            lambda: service.controller.describe(
                service.controller.start(body.model, rings, body.target)
            )
        )

    @routes.post("/v1/rollouts/{number}/{action}")
    async def change(
        request: Request,
        number: _Number,
        action: Annotated[str, Path(pattern="^(pause|resume|rollback)$")],
    ) -> dict[str, Any]:
        """Pause a rollout, resume it, or take it back."""
        await service.authorize(request, OPERATOR)
        work = getattr(service.controller, action)
        return await service.call(lambda: service.controller.describe(work(number)))
