"""Routes that a model answers: OpenAI's, and those of its tokenizer."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from kanna.serving import relay, requests, vectors
from kanna.serving.gateway import Gateway
from kanna.serving.openapi import BodySchemas


def router(gateway: Gateway, schemas: BodySchemas) -> APIRouter:
    """Routes under /v1, /tokenize and /detokenize."""
    routes = APIRouter()

    @routes.post(relay.CHAT, openapi_extra=schemas.describe(requests.Chat))
    async def chat(request: Request) -> Response:
        return await gateway.generate(request, requests.Chat, relay.CHAT)

    @routes.post("/v1/completions", openapi_extra=schemas.describe(requests.Completion))
    async def complete(request: Request) -> Response:
        return await gateway.generate(request, requests.Completion, "/v1/completions")

    @routes.post(vectors.EMBEDDINGS, openapi_extra=schemas.describe(requests.Embeddings))
    async def embed(request: Request) -> Response:
        return await gateway.forward(
            request, requests.Embeddings, vectors.EMBEDDINGS, plan=vectors.embeddings
        )

    @routes.post("/v1/rerank", openapi_extra=schemas.describe(requests.Rerank))
    async def rerank(request: Request) -> Response:
        return await gateway.forward(request, requests.Rerank, "/v1/rerank", plan=vectors.ranks)

    @routes.post("/tokenize", openapi_extra=schemas.describe(requests.Tokenize))
    async def tokenize(request: Request) -> Response:
        return await gateway.forward(request, requests.Tokenize, "/tokenize")

    @routes.post("/detokenize", openapi_extra=schemas.describe(requests.Detokenize))
    async def detokenize(request: Request) -> Response:
        return await gateway.forward(request, requests.Detokenize, "/detokenize")

    @routes.get("/v1/models")
    async def listed(request: Request) -> dict[str, Any]:
        key = await gateway.authorize(request, "infer")
        models = [m for m in gateway.pool.models.values() if not key.models or m.name in key.models]
        data = [
            {"id": model.name, "object": "model", "created": model.created, "owned_by": "kanna"}
            for model in models
        ]
        return {"object": "list", "data": data}

    return routes
