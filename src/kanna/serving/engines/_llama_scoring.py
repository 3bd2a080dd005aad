"""Scores the prompts of a GGUF in a process of its own, which maps the same file.

llama.cpp's server cannot: it has log-probabilities of generated tokens alone.
"""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web

from kanna import libllama, runtimes
from kanna.serving.engines._http_server import BadRequestError, json_response, serve
from kanna.serving.engines._prompt_scorer import PromptScorer
from kanna.serving.engines.base import CONTEXT_EXCEEDED, EngineConfig


def run(config: EngineConfig) -> None:
    """Answer `/score` until the process ends."""
    runtime: Any = runtimes.get("llamacpp")
    engine = runtime.open(
        config.path, context=config.context, threads=config.threads, gpu_layers=config.gpu_layers
    )
    in_use = asyncio.Lock()

    def score(prompt: str | list[int], top: int) -> dict[str, Any]:
        ids = (
            engine.tokenize(prompt, add_bos=True, special=True)
            if isinstance(prompt, str)
            else prompt
        )
        if not ids:
            raise BadRequestError("an empty prompt has nothing to score")
        # llama.cpp ends the process when it is asked for the text of such a token.
        if max(ids) >= engine.vocab_size:
            raise BadRequestError(
                f"token ids up to {max(ids)}, the vocabulary has {engine.vocab_size}"
            )
        if len(ids) > engine.context:
            raise BadRequestError(
                f"{len(ids)} tokens do not fit the context of {engine.context}", CONTEXT_EXCEEDED
            )
        scorer = PromptScorer(ids, lambda token: engine.detokenize([token], special=True), top)
        for rows in engine.logits_in_parts(ids):
            scorer.add(rows)
        return {"tokens": scorer.tokens}

    async def handle(body: dict[str, Any], _: web.Request) -> web.StreamResponse:
        async with in_use:
            return json_response(await asyncio.to_thread(score, body["prompt"], body["top"]))

    serve(config, {"/score": handle}, program=libllama.library().build.distribution)
