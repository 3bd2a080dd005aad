"""Clients that do to a gateway whatever clients do: stream, leave, read slowly, send nonsense."""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections import Counter
from typing import Any

import aiohttp
from benchmarks.serve.servers import CHAT

COMPLETE = "/v1/completions"


class UnrulyClients:
    """Clients of one gateway, what they did and what they were answered.

    Args:
        url: The gateway, without `/v1`.
        seed: Of what they do.
        pause: Mean seconds that a client waits between two actions.

    Attributes:
        actions: How often each action was begun.
        statuses: How often each status, or error, was met.
        usage: Tokens that whole answers reported.
    """

    def __init__(self, url: str, seed: int, pause: float) -> None:
        self.url, self.random, self.pause = url, random.Random(seed), pause
        self.statuses = Counter[str]()
        self.actions = Counter[str]()
        self.usage = Counter[str]()
        self.session: Any = None
        self.end = 0.0

    async def client(self) -> None:
        """One client, which does one thing after another until the end."""
        weights = {
            self.whole: 6,
            self.stream: 6,
            self.many: 2,
            self.leave_early: 4,
            self.leave_in_the_middle: 6,
            self.slow_reader: 2,
            self.nonsense: 3,
            self.half: 1,
            self.too_much: 1,
            self.embed: 1,
            self.tokens: 2,
        }
        while time.monotonic() < self.end:
            [action] = self.random.choices(list(weights), list(weights.values()))
            self.actions[action.__name__] += 1
            try:
                await action()
            except (aiohttp.ClientError, asyncio.TimeoutError, ConnectionError) as error:
                self.statuses[f"{action.__name__}: {type(error).__name__}"] += 1
            await asyncio.sleep(self.random.random() * 2 * self.pause)

    def body(self, **more: Any) -> dict[str, Any]:
        """A chat of some words."""
        count = self.random.randint(3, 60)
        words = self.random.choices(["plane", "wood", "iron", "thin", "edge"], k=count)
        return {
            "model": "m",
            "messages": [{"role": "user", "content": " ".join(words)}],
            "max_tokens": self.random.randint(1, 24),
            **more,
        }

    async def post(self, path: str, body: Any) -> Any:
        """Send a body; what was answered, if all is well."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"content-type": "application/json"}
        async with self.session.post(self.url + path, data=data, headers=headers) as answer:
            self.statuses[str(answer.status)] += 1
            content = await answer.read()
            try:
                return json.loads(content) if answer.status == 200 else None
            except ValueError:
                return content

    def count(self, answer: Any) -> None:
        """Add the usage that an answer reports."""
        if isinstance(answer, dict) and answer.get("usage"):
            self.usage["prompt"] += answer["usage"].get("prompt_tokens", 0)
            self.usage["completion"] += answer["usage"].get("completion_tokens", 0) or 0

    async def whole(self) -> None:
        """A chat, answered at once."""
        self.count(await self.post(CHAT, self.body()))

    async def many(self) -> None:
        """Several prompts and choices, with log-probabilities."""
        body = {
            "model": "m",
            "prompt": ["a b c", "1 2 3"],
            "n": 2,
            "max_tokens": 4,
            "echo": True,
            "logprobs": 1,
        }
        self.count(await self.post(COMPLETE, body))

    async def stream(self, pause: float = 0.0, leave: int | None = None) -> None:
        """A streamed chat, read with a pause after every line, left after so many events."""
        body = self.body(stream=True, stream_options={"include_usage": True})
        async with self.session.post(self.url + CHAT, json=body) as answer:
            self.statuses[str(answer.status)] += 1
            count = 0
            async for line in answer.content:
                count += line.startswith(b"data: ")
                if b'"usage":{' in line or b'"usage": {' in line:
                    self.count(json.loads(line[6:]))
                if b'"error"' in line and leave is None:
                    self.statuses["error in a stream"] += 1
                if pause:
                    await asyncio.sleep(pause)
                if leave is not None and count >= leave:
                    answer.close()
                    return

    async def slow_reader(self) -> None:
        """A streamed chat, read slowly."""
        await self.stream(pause=0.1)

    async def leave_in_the_middle(self) -> None:
        """A streamed chat that is left."""
        # Its last event may have been read already; usage that it reported is counted then.
        await self.stream(leave=self.random.randint(1, 6))

    async def leave_early(self) -> None:
        """A chat that is left before the answer."""
        stream = self.random.random() < 0.5
        try:
            await asyncio.wait_for(
                self.post(CHAT, self.body(stream=stream)), self.random.random() * 0.2
            )
        except asyncio.TimeoutError:
            self.statuses["left early"] += 1

    async def nonsense(self) -> None:
        """Bodies and fields that are refused."""
        fields: list[dict[str, Any]] = [{"temperature": "hot"}, {"model": "x"}, {"n": 99}]
        bodies = [b"", b"{", b"[]", b'{"model": "m"}', os.urandom(40), b"[" * 20000]
        bodies += [json.dumps(self.body(**field)).encode() for field in fields]
        path = self.random.choice([CHAT, COMPLETE, "/v1/embeddings", "/tokenize", "/nowhere"])
        await self.post(path, self.random.choice(bodies))

    async def half(self) -> None:
        """A part of a request."""
        host, port = self.url[7:].split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        head = b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: 50\r\n\r\n{"
        writer.write(head[: self.random.choice([13, len(head)])])
        await writer.drain()
        await asyncio.sleep(self.random.random())
        writer.close()

    async def too_much(self) -> None:
        """A body beyond the limit."""
        await self.post(CHAT, b" " * (9 << 20))

    async def embed(self) -> None:
        """Embeddings."""
        self.count(await self.post("/v1/embeddings", {"model": "m", "input": "a plane"}))

    async def tokens(self) -> None:
        """Tokens of a text."""
        await self.post("/tokenize", {"model": "m", "content": "a plane"})
