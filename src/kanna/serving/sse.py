"""Server-sent events as OpenAI's streams have them: `data: ` and a JSON object each."""

from __future__ import annotations

import json
from collections.abc import AsyncIterable, AsyncIterator
from typing import Any

SEPARATOR = b"\n\n"
PREFIX = b"data: "
_ERROR = PREFIX + b'{"error"'
DONE = b"data: [DONE]\n\n"
"""The last event of a stream."""


def encode(chunk: dict[str, Any]) -> bytes:
    """One event."""
    return PREFIX + json.dumps(chunk, ensure_ascii=False).encode() + SEPARATOR


def decode(event: bytes) -> dict[str, Any] | None:
    """The object in an event; None for the last event and for those without an object."""
    return json.loads(event[len(PREFIX) :]) if event.startswith(PREFIX + b"{") else None


async def whole(parts: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """The events of a stream that comes in any parts, one or more whole ones at a time."""
    unsent = b""
    async for part in parts:
        unsent = unsent + part if unsent else part
        end = unsent.rfind(SEPARATOR) + len(SEPARATOR)
        if end >= len(SEPARATOR):
            yield unsent[:end]
            unsent = unsent[end:]


def until_error(events: bytes) -> tuple[bytes, str]:
    """Whole events up to the one that is an error, and its JSON text; "" where none is."""
    start = events.find(_ERROR)
    if start < 0:
        return events, ""
    text, _, _ = events[start + len(PREFIX) :].partition(SEPARATOR)
    return events[:start], text.decode("utf-8", "replace")


async def chunks(events: AsyncIterable[bytes]) -> AsyncIterator[dict[str, Any]]:
    """The objects in a stream of whole events, several of which may come together."""
    async for part in events:
        for event in part.split(SEPARATOR):
            if (chunk := decode(event)) is not None:
                yield chunk
