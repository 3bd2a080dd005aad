"""How far an engine is with a request, asked while it works on it.

An engine counts what it generates at the end of an answer. Of an answer that nobody waits for any
more there is no end, so its engine is asked for the state of its slots before it is left. Each
request carries a number by which its slot is known: llama.cpp's option `n_discard`, which counts
for contexts that are shifted alone, and those of the gateway are not.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from kanna.serving import http_client
from kanna.serving.http_client import EngineConnectionError
from kanna.serving.process import EngineProcess

MARK = "n_discard"
_SECONDS = 3.0
_numbers = itertools.count(1)


@dataclass(slots=True, kw_only=True, frozen=True)
class TokensSoFar:
    """Tokens of a request under way."""

    prompt: int
    completion: int


def marked(body: dict[str, Any]) -> dict[str, Any]:
    """A body for the engine by which its slot is known."""
    return body | {MARK: next(_numbers) % (1 << 30)}


async def ask(process: EngineProcess, body: dict[str, Any]) -> TokensSoFar | None:
    """How far the engine is with a marked body; None where no slot works on it."""
    mark = body.get(MARK)
    if mark is None or process.state != "ready":
        return None
    with suppress(
        EngineConnectionError, ValueError, TypeError, KeyError, IndexError, asyncio.TimeoutError
    ):
        for slot in await asyncio.wait_for(_slots(process), _SECONDS):
            if slot.get("is_processing") and slot.get("params", {}).get(MARK) == mark:
                completion = int(slot["next_token"][0]["n_decoded"])
                prompt = max(0, int(slot["n_prompt_tokens"]) - completion)
                return TokensSoFar(prompt=prompt, completion=completion)
    return None


async def _slots(process: EngineProcess) -> list[dict[str, Any]]:
    response = await http_client.request(process.port, "/slots", process.raw_headers, method="GET")
    try:
        return json.loads(await response.read())
    finally:
        response.close()
