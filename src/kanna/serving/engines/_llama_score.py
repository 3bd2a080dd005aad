"""Scores prompts of a GGUF.

Llama.cpp's server cannot, so a process of its own maps the same file.
"""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web

from kanna import runtimes
from kanna.serving.engines._host import Refused, answer, serve
from kanna.serving.engines._scores import Scorer
from kanna.serving.engines.base import EngineConfig


def run(config: EngineConfig) -> None:
    """Until the process ends."""
    runtime: Any = runtimes.get("llamacpp")
    engine = runtime.open(
        config.path, context=config.context, threads=config.threads, gpu_layers=config.gpu_layers
    )
    one = asyncio.Lock()

    def score(prompt: str | list[int], top: int) -> dict[str, Any]:
        ids = (
            engine.tokenize(prompt, add_bos=True, special=True)
            if isinstance(prompt, str)
            else prompt
        )
        if not ids:
            raise Refused("an empty prompt has nothing to score")
        if (
            max(ids) >= engine.vocab_size
        ):  # llama.cpp ends the process when it is asked for such a token's text
            raise Refused(f"token ids up to {max(ids)}, the vocabulary has {engine.vocab_size}")
        scorer = Scorer(ids, lambda i: engine.detokenize([i], special=True), top)
        for rows in engine.logits_in_parts(ids):
            scorer.rows(rows)
        return {"tokens": scorer.tokens}

    async def handle(body: dict[str, Any], _: web.Request) -> web.StreamResponse:
        async with one:
            return answer(await asyncio.to_thread(score, body["prompt"], body["top"]))

    serve(config, {"/score": handle}, program="llama-cpp-python")
