"""Routes of the studio, for its key: models, estimates, uploads, jobs, what they made."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import ClientDisconnect

from kanna import formats
from kanna._util.units import format_size, parse_size
from kanna.errors import KannaError
from kanna.hardware import cpu, memory
from kanna.optimization import EFFORTS
from kanna.optimization import adapters as searched
from kanna.serving.gateway import Gateway
from kanna.serving.problems import ApiError
from kanna.serving.studio.archives import Archives
from kanna.serving.studio.estimate import Estimator
from kanna.serving.studio.jobs import JobStore, StudioJob
from kanna.serving.studio.library import known_models
from kanna.serving.studio.outcomes import Outcomes
from kanna.serving.studio.runner import JobRunner
from kanna.serving.studio.uploads import UploadStore

_REPORT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; sandbox allow-downloads allow-popups"
)


_LOG_BYTES = 65536


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class FitQuestion(_Body):
    """Which presets of a model fit."""

    source: str = Field(min_length=1, max_length=4096)
    format: str = Field(formats.DEFAULT, max_length=64)
    context: int = Field(4096, ge=1, le=10_000_000)


class NewJob(_Body):
    """A verb to run."""

    verb: Literal["convert", "optimize", "compare"]
    source: str = Field(min_length=1, max_length=4096)
    preset: str = Field("", max_length=100)
    size: str = Field("", max_length=40)
    effort: str = Field("balanced", max_length=40)
    presets: list[str] = Field([], max_length=100)
    windows: int | None = Field(None, ge=1, le=1_000_000)
    tokens: int | None = Field(None, ge=512, le=100_000_000)
    verify: bool = True

    def options(self) -> dict[str, Any]:
        """Arguments of the verb; raises KannaError for what it would not take."""
        windows = {"windows": self.windows} if self.windows else {}
        if self.verb == "compare":
            return {**({"presets": self.presets} if self.presets else {}), **windows}
        name, preset = formats.parse_preset(None, self.preset)
        formats.get(name).canonical(preset or "")
        if self.verb == "convert":
            return {"preset": self.preset, **({"verify": True} if self.verify else {})}
        budget = {"size": parse_size(self.size)} if self.size else {"like": preset}
        effort = {} if self.effort == "balanced" else {"effort": self.effort}
        named = {} if name == formats.DEFAULT else {"format": name}
        tokens = {"tokens": self.tokens} if self.tokens else {}
        return {**budget, **effort, **named, **windows, **tokens}


class FileSize(_Body):
    """A file that will be sent."""

    name: str = Field(min_length=1, max_length=255)
    bytes: int = Field(ge=0)


class NewUpload(_Body):
    """The files of a model that will be sent."""

    files: list[FileSize] = Field(min_length=1, max_length=1000)


@dataclass(slots=True, kw_only=True)
class StudioParts:
    """What the routes work on.

    Attributes:
        folder: Of the studio.
        searched: Folders to look for models in.
    """

    folder: Path
    searched: tuple[Path, ...]
    store: JobStore
    runner: JobRunner
    uploads: UploadStore
    outcomes: Outcomes
    estimator: Estimator


def router(gateway: Gateway, parts: StudioParts) -> APIRouter:
    """Routes under /studio."""
    routes = APIRouter(prefix="/studio", include_in_schema=False)
    _add_choices(routes, gateway, parts)
    _add_uploads(routes, gateway, parts)
    _add_jobs(routes, gateway, parts)
    _add_job_actions(routes, gateway, parts)
    _add_files(routes, parts)
    return routes


def _add_choices(routes: APIRouter, gateway: Gateway, parts: StudioParts) -> None:
    @routes.get("/state")
    async def state(request: Request) -> dict[str, Any]:
        await gateway.authorize(request, "admin")
        known = [formats.get(name) for name in formats.runnable()]
        names = searched.names()
        return {
            "machine": await asyncio.to_thread(_machine),
            "folder": str(parts.folder),
            "upload_limit": parts.uploads.limit,
            "formats": [
                {"name": f.name, "title": f.title, "searched": f.name in names} for f in known
            ],
            "efforts": [{"name": n, "summary": e.summary} for n, e in EFFORTS.items()],
        }

    @routes.get("/models")
    async def models(request: Request) -> dict[str, Any]:
        await gateway.authorize(request, "admin")
        listed = await asyncio.to_thread(known_models, parts.uploads.root, parts.searched)
        return {"models": [model.to_dict() for model in listed]}

    @routes.post("/fit")
    async def fit(request: Request) -> dict[str, Any]:
        await gateway.authorize(request, "admin")
        question = await gateway.read_body(request, FitQuestion)
        return await parts.estimator.fit(FitQuestion(**question).model_dump())


def _machine() -> str:
    held = memory()
    return f"{cpu().model}, {format_size(held.available)} of {format_size(held.total)} free"


def _add_uploads(routes: APIRouter, gateway: Gateway, parts: StudioParts) -> None:
    uploads = parts.uploads

    @routes.post("/uploads", status_code=201)
    async def begin(request: Request) -> dict[str, Any]:
        await gateway.authorize(request, "admin")
        body = NewUpload(**await gateway.read_body(request, NewUpload))
        upload = uploads.begin({file.name: file.bytes for file in body.files})
        return {"id": upload.id}

    @routes.put("/uploads/{upload_id}/{name}")
    async def receive(request: Request, upload_id: str, name: str) -> dict[str, Any]:
        await gateway.authorize(request, "admin")
        upload = uploads.find(upload_id)
        try:
            source = await uploads.receive(upload, name, _body_parts(request))
        except OSError as error:
            message = f"the file cannot be written: {error.strerror}"
            raise ApiError(507, message, "server_error", todo="free some disk space") from None
        return {"source": source}

    @routes.delete("/uploads/{upload_id}", status_code=204)
    async def abandon(request: Request, upload_id: str) -> Response:
        await gateway.authorize(request, "admin")
        uploads.abandon(uploads.find(upload_id))
        return Response(status_code=204)


async def _body_parts(request: Request) -> AsyncIterator[bytes]:
    try:
        async for part in request.stream():
            yield part
    except ClientDisconnect:
        raise ApiError(499, "the client went away", code="client_left") from None


def _add_jobs(routes: APIRouter, gateway: Gateway, parts: StudioParts) -> None:
    store, outcomes = parts.store, parts.outcomes

    @routes.get("/jobs")
    async def listed(request: Request) -> dict[str, Any]:
        await gateway.authorize(request, "admin")
        return {"jobs": [outcomes.describe(job) for job in reversed(store.jobs.values())]}

    @routes.post("/jobs", status_code=201)
    async def create(request: Request) -> dict[str, Any]:
        await gateway.authorize(request, "admin")
        body = NewJob(**await gateway.read_body(request, NewJob))
        try:
            options = body.options()
        except KannaError as error:
            raise ApiError(400, error.found, todo=error.todo or error.expected) from None
        job = store.add(body.verb, body.source, options)
        parts.runner.wake()
        return outcomes.describe(job)

    @routes.get("/jobs/{job_id}")
    async def one(request: Request, job_id: str) -> dict[str, Any]:
        await gateway.authorize(request, "admin")
        return outcomes.describe(store.find(job_id))

    @routes.get("/jobs/{job_id}/log")
    async def log(request: Request, job_id: str) -> Response:
        await gateway.authorize(request, "admin")
        path = store.folder(store.find(job_id)) / "log.txt"
        text = await asyncio.to_thread(_end_of, path) if path.exists() else b""
        return Response(text, media_type="text/plain; charset=utf-8")


def _end_of(path: Path) -> bytes:
    """The last lines of a log, however long it is."""
    with path.open("rb") as log:
        log.seek(max(0, path.stat().st_size - _LOG_BYTES))
        return log.read(_LOG_BYTES)


def _add_job_actions(routes: APIRouter, gateway: Gateway, parts: StudioParts) -> None:
    store, runner, outcomes = parts.store, parts.runner, parts.outcomes

    @routes.delete("/jobs/{job_id}", status_code=204)
    async def remove(request: Request, job_id: str) -> Response:
        await gateway.authorize(request, "admin")
        job = store.find(job_id)
        await runner.cancel(job)
        await outcomes.forget(job)
        await asyncio.to_thread(store.remove, job)
        return Response(status_code=204)

    @routes.post("/jobs/{job_id}/cancel")
    async def cancel(request: Request, job_id: str) -> dict[str, Any]:
        await gateway.authorize(request, "admin")
        job = store.find(job_id)
        await runner.cancel(job)
        return outcomes.describe(job)

    @routes.post("/jobs/{job_id}/again")
    async def again(request: Request, job_id: str) -> dict[str, Any]:
        await gateway.authorize(request, "admin")
        job = store.find(job_id)
        if job.active:
            raise ApiError(409, "this job is under way", code="under_way")
        await outcomes.forget(job)
        store.requeue(job)
        runner.wake()
        return outcomes.describe(job)

    @routes.post("/jobs/{job_id}/original")
    async def original(request: Request, job_id: str) -> dict[str, Any]:
        await gateway.authorize(request, "admin")
        answer: str | StudioJob = outcomes.original(store.find(job_id))
        if isinstance(answer, str):
            return {"model": answer, "job": None}
        runner.wake()
        return {"model": None, "job": answer.id}


def _add_files(routes: APIRouter, parts: StudioParts) -> None:
    archives = Archives()

    @routes.get("/files/{ticket}/{name:path}")
    async def file(ticket: str, name: str) -> Response:
        """A file of a job; its address holds the job's ticket, since a link cannot send a key."""
        path, is_report = parts.outcomes.file(ticket, name)
        if is_report:
            headers = {"Content-Security-Policy": _REPORT_POLICY, "Cache-Control": "no-store"}
            return FileResponse(path, media_type="text/html", headers=headers)
        disposition = f"attachment; filename*=UTF-8''{quote(path.name)}"
        return FileResponse(
            path,
            media_type="application/octet-stream",
            headers={"Content-Disposition": disposition},
        )

    @routes.get("/archives/{ticket}")
    async def archive(ticket: str) -> Response:
        """The folder that a job made, as one file."""
        folder = parts.outcomes.folder(ticket)
        disposition = f"attachment; filename*=UTF-8''{quote(folder.name)}.zip"
        return StreamingResponse(
            archives.open(folder),
            media_type="application/zip",
            headers={"Content-Disposition": disposition, "Cache-Control": "no-store"},
        )
