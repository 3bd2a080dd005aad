"""Keys and their usage over HTTP, for a key with the scope `admin`. Without keys nobody may: it has to be a key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from kanna.errors import UsageError
from kanna.serve.guard.store import after
from kanna.serve.problems import ApiError

if TYPE_CHECKING:
    from kanna.serve.gateway import Gateway


class NewKey(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=200)
    scopes: list[str] = ["infer"]
    models: list[str] = []
    expires_in_days: float | None = Field(None, gt=0)
    requests_per_minute: int | None = Field(None, ge=1)
    tokens_per_minute: int | None = Field(None, ge=1)
    tokens_per_day: int | None = Field(None, ge=1)


def router(gateway: Gateway) -> APIRouter:
    """Routes under /admin."""
    routes, store = APIRouter(prefix="/admin"), gateway.store

    @routes.get("/keys")
    async def listed(request: Request) -> dict[str, Any]:
        """Every key with what it used today."""
        gateway.admit(request, "admin")
        used: dict[str, dict[str, int]] = {}
        for row in store.usage(1):
            total = used.setdefault(row["key"], {"requests": 0, "tokens": 0})
            total["requests"] += row["requests"]
            total["tokens"] += row["prompt_tokens"] + row["completion_tokens"]
        return {"keys": [{**k.to_dict(), "usage": used.get(k.id, {})} for k in store.listed()]}

    @routes.post("/keys", status_code=201)
    async def create(request: Request) -> dict[str, Any]:
        """A new key; its text is in this answer and nowhere else."""
        gateway.admit(request, "admin")
        body = await gateway.body(request, NewKey)
        expires = after(body.pop("expires_in_days", None))
        try:
            key, text = store.create(**body, expires=expires)
        except UsageError as error:
            raise ApiError(400, str(error)) from None
        return {**key.to_dict(), "key": text}

    @routes.delete("/keys/{identity}")
    async def revoke(request: Request, identity: str) -> Response:
        gateway.admit(request, "admin")
        if not any(k.id == identity for k in store.listed()):
            raise ApiError(404, f"no key {identity[:100]!r}", code="not_found")
        try:
            store.revoke(identity)
        except UsageError as error:
            raise ApiError(404, str(error), code="not_found") from None
        return Response(status_code=204)

    return routes
