"""The prompt in front of a completion, with its log-probabilities where they are asked for."""

from __future__ import annotations

import json
from typing import Any

from kanna.serving import logprobs, relay
from kanna.serving.backend import Backend
from kanna.serving.engines.base import SCORE
from kanna.serving.logprobs import ScoredText
from kanna.serving.model_call import ModelCall
from kanna.serving.pool import ModelPool
from kanna.serving.process import EngineProcess
from kanna.serving.relay import TokenUsage


async def echoed_prompt(
    call: ModelCall,
    pool: ModelPool,
    backend: Backend,
    body: dict[str, Any],
    usage: TokenUsage,
    top: int | None,
) -> ScoredText:
    """The prompt of one choice, whose tokens are counted when nothing is generated.

    Args:
        call: The request that the choice belongs to.
        pool: Of all models.
        backend: Of the model, with a slot acquired.
        body: Of the engine request.
        usage: Gets the tokens.
        top: How many of the likeliest tokens to name; None: no log-probabilities.
    """
    prompt = body.get("prompt")
    if top is not None:
        process = await pool.loader.process_for(call.model, backend, SCORE)
        return await _scored(backend, process, prompt, top, usage)
    if body.get("max_tokens") == 0:
        usage.prompt = await relay.count_prompt(backend.main, call.path, body)
    if isinstance(prompt, str):
        return ScoredText(text=prompt)
    data = await relay.fetch(backend, "/detokenize", {"tokens": prompt}, TokenUsage())
    return ScoredText(text=json.loads(data)["content"])


async def _scored(
    backend: Backend, process: EngineProcess, prompt: Any, top: int, usage: TokenUsage
) -> ScoredText:
    body = {"prompt": prompt, "top": top}
    scores = json.loads(await relay.fetch(backend, "/score", body, TokenUsage(), process))
    usage.prompt = len(scores["tokens"])
    tokens = logprobs.from_scores(scores)
    text = "".join(token.text for token in tokens)
    if isinstance(prompt, str):
        # A token that the model wants at the beginning is no part of the text.
        if text == tokens[0].text + prompt:
            tokens[0].text = ""
        text = prompt
    return ScoredText(text=text, tokens=tokens)
