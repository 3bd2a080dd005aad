"""What the routes share: the checks in front of every request, and how it is answered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from fastapi import Request
from fastapi.responses import Response
from pydantic import BaseModel
from starlette.requests import ClientDisconnect

from kanna.serving import adapter_names, relay, requests, responses, vectors
from kanna.serving.accounting import Accounting
from kanna.serving.constraints import ConstraintChecker
from kanna.serving.disconnect import CLIENT_CLOSED_REQUEST, ClientConnection
from kanna.serving.event_stream import EventStream
from kanna.serving.guard.keyring import KeyRing
from kanna.serving.guard.keys import ApiKey
from kanna.serving.guard.limits import RateLimiter
from kanna.serving.guard.store import KeyStore
from kanna.serving.large_bodies import LARGE
from kanna.serving.model_call import ModelCall, check_length
from kanna.serving.pool import ModelPool
from kanna.serving.problems import ApiError, overloaded
from kanna.serving.responses import ResponseBuilder
from kanna.serving.served_model import ServedModel
from kanna.serving.settings import GatewaySettings
from kanna.serving.traces import TraceExporter
from kanna.serving.vectors import Exchange

ANONYMOUS = ApiKey(id="anyone", name="anyone", scopes=("infer", "metrics"), created=0)
"""The key of all requests where no keys are needed."""


_MOST_ARRIVING = 256 << 20
"""Bytes of bodies on their way in."""


class Gateway:
    """The parts of a running gateway.

    Args:
        pool: Of its models.
        store: Of its keys.
        settings: What it was started with.
        traces: Gets a span per request; None: no traces.
    """

    def __init__(
        self,
        pool: ModelPool,
        store: KeyStore,
        settings: GatewaySettings,
        traces: TraceExporter | None = None,
    ) -> None:
        self.pool, self.store, self.settings = pool, store, settings
        self.metrics = pool.metrics
        self.constraints = ConstraintChecker()
        self.keyring = KeyRing(store)
        self.bodies = pool.loader.bodies
        self.pictures = pool.loader.pictures
        self._arriving = 0  # bytes of bodies that are being read
        self.limiter = RateLimiter(store.tokens_of_day)
        self.accounting = Accounting(self.metrics, self.limiter, traces, context=settings.context)

    # Checks

    async def authorize(self, request: Request, scope: str) -> ApiKey:
        """The key of a request.

        Raises:
            ApiError: 401: no valid key; 403: not of this scope; 429: over its limits; 503: keys
                cannot be read.
        """
        if not self.settings.keys_needed and scope != "admin":
            return ANONYMOUS
        kind, _, text = request.headers.get("authorization", "").partition(" ")
        key = await self.keyring.find(text.strip()) if kind.lower() == "bearer" else None
        # A clock that is set back makes no key valid again.
        if key is None or not key.valid(max(time.time(), self.limiter.now())):
            raise ApiError(
                401,
                "no valid API key: send `Authorization: Bearer kanna-…`",
                code="invalid_api_key",
            )
        if not key.allows(scope):
            raise ApiError(
                403, f"this key has no scope {scope!r}", "permission_error", "insufficient_scope"
            )
        if scope == "infer":
            self.limiter.admit(key)
        return key

    async def read_body(self, request: Request, kind: type[BaseModel]) -> dict[str, Any]:
        """The body of a request, as `kind` has it.

        Raises:
            ApiError: 400: not as `kind` has it; 408: too slow; 413: too large; 499: the client is
                gone.
        """
        try:
            data = await asyncio.wait_for(
                self._read_bytes(request), self.settings.limits.header_time
            )
        except asyncio.TimeoutError:
            raise ApiError(408, "the body did not arrive in time", code="request_timeout") from None
        except ClientDisconnect:
            raise ApiError(
                CLIENT_CLOSED_REQUEST, "the client went away", code="client_left"
            ) from None
        return await self.bodies.check(kind, data)

    async def _read_bytes(self, request: Request) -> bytes:
        limit, data = self.settings.limits.body, bytearray()
        try:
            async for part in request.stream():
                data += part
                self._arriving += len(part)
                if len(data) > limit:
                    raise ApiError(
                        413, f"the body is larger than {limit} bytes", code="request_too_large"
                    )
                if self._arriving > _MOST_ARRIVING and len(data) > LARGE:
                    raise overloaded("too many large bodies arrive at once")
        finally:
            self._arriving -= len(data)
        return bytes(data)

    def find_model(self, key: ApiKey, name: str) -> ServedModel:
        """The model of that name or alias; raises ApiError 403 or 404."""
        model = self.pool.find(name)
        if key.models and model.name not in key.models:
            raise ApiError(
                403,
                f"this key may not use {model.name!r}",
                "permission_error",
                "model_not_allowed",
            )
        return model

    def _limit_tokens(self, key: ApiKey, body: dict[str, Any]) -> None:
        """Hold the number of new tokens to the limit; a request that names none gets the limit.

        It gets no more than its share of what its key may still use, so that a reservation for it
        leaves room for others. Afterwards it is `max_tokens`, whatever the client called it.
        """
        limit = self.settings.limits.max_tokens
        wanted = None
        for field in requests.TOKEN_LIMITS:
            count = body.pop(field, None)
            if limit and count is not None and count > limit:
                raise ApiError(
                    400, f"{field} is {count}, at most {limit} are allowed here", param=field
                )
            wanted = count if wanted is None else wanted
        if wanted is None:
            wanted = limit or None
            share = self.limiter.share(key)
            if share is not None and share < (wanted or self.settings.context):
                wanted = share
        if wanted is not None:
            body["max_tokens"] = wanted

    async def _admit(self, request: Request, kind: type[BaseModel], path: str) -> ModelCall:
        """Check a request, and count it."""
        started = time.perf_counter()
        key = await self.authorize(request, "infer")
        body = await self.read_body(request, kind)
        model = self.find_model(key, body["model"])
        if issubclass(kind, requests.GenerationParameters):
            vectors.require_text(model)
            self._limit_tokens(key, body)
        if kind is requests.Chat:
            requests.normalize_tool_choice(body)
        body["model"] = model.name
        check_length(body, self.settings.context)
        if issubclass(kind, requests.GenerationParameters):
            if body.get("lora") is not None:
                body["lora"] = adapter_names.by_id(body["lora"], model.spec.adapters, "lora")
            await self._check_constraints(request, key, model, body)
            await self.pictures.check(model, body)
        call = ModelCall(
            key=key,
            model=model,
            path=path,
            body=body,
            request=request,
            client=ClientConnection(request.receive),
            started=started,
        )
        self.accounting.start(call)
        return call

    async def _check_constraints(
        self, request: Request, key: ApiKey, model: ServedModel, body: dict[str, Any]
    ) -> None:
        """Raise ApiError 400 for schemas and grammars that no engine should be asked for.

        Biases of tokens that the model does not have change nothing, and are left out.
        """
        if body.get("logit_bias") and model.engine.vocab_size:
            count = await asyncio.to_thread(model.engine.vocab_size, model.spec.path)
            bias = {k: v for k, v in body["logit_bias"].items() if int(k) < count}
            body["logit_bias"] = bias
        config = self.pool.loader.config(model.spec, model.engine)
        client = f"{key.id} {request.client.host if request.client else ''}"
        await self.constraints.check(model.engine, config, body, client)

    # Answers

    async def generate(self, request: Request, kind: type[BaseModel], path: str) -> Response:
        """Answer a chat or a completion, whole or streamed.

        Args:
            request: As it came.
            kind: What its body has to be.
            path: Of the engine's route.
        """
        call = await self._admit(request, kind, path)
        client, limits = call.client, self.settings.limits
        streaming = False
        try:
            builder = responses.build(call, self.pool)
            if not call.body.get("stream"):
                data = await client.run(self._whole(call, builder), limits.request_time)
                return Response(data, media_type="application/json")
            source = self._stream(call, builder)
            # Until the first event there can be an answer with a status that says what is wrong.
            first = await client.run(anext(source), limits.request_time)
            streaming = True
            return EventStream(
                first, source, client, total=limits.request_time, idle=limits.idle_time
            )
        finally:
            if not streaming:
                client.stop_watching()

    async def _whole(self, call: ModelCall, builder: ResponseBuilder) -> bytes:
        async with self.accounting.recorded(call):
            await self._check_chat(call)
            return await builder.whole()

    async def _stream(self, call: ModelCall, builder: ResponseBuilder) -> AsyncGenerator[bytes]:
        async with self.accounting.recorded(call):
            await self._check_chat(call)
            async with aclosing(builder.stream()) as parts:
                async for part in parts:
                    yield part

    async def _check_chat(self, call: ModelCall) -> None:
        """Refuse a chat whose template takes too much, before it waits for a slot."""
        if call.is_chat:
            model = call.model
            backend = model.backend or await self.pool.loader.load(model)
            await backend.check_chat(call.body)

    async def forward(
        self,
        request: Request,
        kind: type[BaseModel],
        path: str,
        *,
        plan: Callable[[ModelCall], Exchange] = vectors.plain,
    ) -> Response:
        """Answer a request with one answer of the engine: tokens of a text, embeddings.

        Args:
            request: As it came.
            kind: What its body has to be.
            path: Of the engine's route.
            plan: Which process answers, and what becomes of its answer.
        """
        call = await self._admit(request, kind, path)
        try:
            data = await call.client.run(self._fetch(call, plan), self.settings.limits.request_time)
            return Response(data, media_type="application/json")
        finally:
            call.client.stop_watching()

    async def _fetch(self, call: ModelCall, plan: Callable[[ModelCall], Exchange]) -> bytes:
        async with self.accounting.recorded(call):
            exchange = plan(call)
            async with self.pool.slot(call.model) as backend:
                process = None
                if exchange.role:
                    process = await self.pool.loader.process_for(call.model, backend, exchange.role)
                data = await relay.fetch(backend, call.path, call.body, call.usage, process)
            if exchange.finish is bytes:
                return data
            return await asyncio.to_thread(exchange.finish, data)
