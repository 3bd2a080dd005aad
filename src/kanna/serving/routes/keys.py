"""Routes of API keys and their usage, for a key with the scope `admin`."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from kanna.errors import UsageError
from kanna.serving.gateway import Gateway
from kanna.serving.guard.keys import expiry
from kanna.serving.openapi import BodySchemas
from kanna.serving.problems import ApiError

REVOKE = {"operationId": "revoke_key", "parameters": {"identity": "$response.body#/id"}}
"""The link in the description of the API from a new key to the route that revokes it."""

_MAX_LIMIT = 10**15


class NewKey(BaseModel):
    """The body of a request for a new key."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=200)
    scopes: list[str] = Field(["infer"], max_length=10)
    models: list[str] = Field([], max_length=1000)
    expires_in_days: float | None = Field(None, gt=0, le=36_500)
    requests_per_minute: int | None = Field(None, ge=1, le=_MAX_LIMIT)
    tokens_per_minute: int | None = Field(None, ge=1, le=_MAX_LIMIT)
    tokens_per_day: int | None = Field(None, ge=1, le=_MAX_LIMIT)


@contextmanager
def _readable() -> Generator[None]:
    """Answer 503 where the file of keys is locked, or has no room."""
    try:
        yield
    except sqlite3.Error as error:
        raise ApiError(
            503,
            f"the file of keys cannot be used at the moment: {error}",
            "server_error",
            "keys_unavailable",
            retry_after=2,
        ) from None


def router(gateway: Gateway, schemas: BodySchemas) -> APIRouter:
    """Routes under /admin."""
    routes, store = APIRouter(prefix="/admin"), gateway.store

    @routes.get("/keys")
    async def listed(request: Request) -> dict[str, Any]:
        """Every key with what it used today."""
        await gateway.authorize(request, "admin")
        with _readable():
            rows, keys = await asyncio.to_thread(lambda: (store.usage(1), store.list_keys()))
        used: dict[str, dict[str, int]] = {}
        for row in rows:
            total = used.setdefault(row["key"], {"requests": 0, "tokens": 0})
            total["requests"] += row["requests"]
            total["tokens"] += row["prompt_tokens"] + row["completion_tokens"]
        return {"keys": [{**k.to_dict(), "usage": used.get(k.id, {})} for k in keys]}

    made = {"201": {"description": "Made", "links": {"revoke": REVOKE}}}

    @routes.post(
        "/keys", status_code=201, openapi_extra={**schemas.describe(NewKey), "responses": made}
    )
    async def create(request: Request) -> dict[str, Any]:
        """Make a key; its text is in this answer and nowhere else."""
        await gateway.authorize(request, "admin")
        body = await gateway.read_body(request, NewKey)
        expires = expiry(body.pop("expires_in_days", None))
        try:
            with _readable():
                key, text = await asyncio.to_thread(store.create, **body, expires=expires)
        except UsageError as error:
            raise ApiError(400, str(error)) from None
        return {**key.to_dict(), "key": text}

    @routes.delete("/keys/{identity}", operation_id="revoke_key", status_code=204)
    async def revoke(request: Request, identity: str) -> Response:
        """Revoke a key, from now on; 202 where that cannot be written yet."""
        await gateway.authorize(request, "admin")
        if not re.fullmatch(r"[0-9a-f]{8}", identity):
            raise ApiError(404, f"no key {identity[:100]!r}", code="not_found")
        try:
            written = await gateway.keyring.revoke(identity)
        except UsageError as error:
            raise ApiError(404, str(error), code="not_found") from None
        if written:
            return Response(status_code=204)
        note = {
            "id": identity,
            "written": False,
            "message": "the key is revoked in this gateway; its file cannot be written, which is "
            "tried again until it can",
        }
        return Response(json.dumps(note), 202, media_type="application/json")

    return routes
