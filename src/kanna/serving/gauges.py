"""Metrics that are only known when somebody asks."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import aiohttp

from kanna.serving.pool import Pool
from kanna.serving.problems import ApiError


async def read(pool: Pool) -> None:
    """Set them."""
    metrics = pool.metrics
    metrics.memory_used.set(pool.used)
    metrics.memory_budget.set(pool.budget)
    for status in await asyncio.to_thread(pool.status):
        name = status["name"]
        metrics.of(metrics.running, name).set(status.get("running", 0))
        metrics.of(metrics.waiting, name).set(status.get("waiting", 0))
        metrics.of(metrics.memory, name).set(status.get("resident", 0))
    for served in pool.models.values():
        backend = served.backend
        if backend is None or backend.main.state != "ready":
            metrics.of(metrics.batch, served.name).set(0)
            metrics.of(metrics.kv_used, served.name).set(0)
            continue
        with suppress(
            ApiError,
            aiohttp.ClientError,
            OSError,
            ValueError,
            TypeError,
            KeyError,
            asyncio.TimeoutError,
        ):
            assert pool.session
            timeout = aiohttp.ClientTimeout(total=1)
            url = f"{backend.main.url}/slots"
            async with pool.session.get(
                url, headers=backend.main.headers, timeout=timeout
            ) as answer:
                slots = await answer.json()
            busy = [slot for slot in slots if slot.get("is_processing")]
            held = sum(int(s.get("n_prompt_tokens") or 0) + _decoded(s) for s in busy)
            metrics.of(metrics.batch, served.name).set(len(busy))
            metrics.of(metrics.kv_used, served.name).set(
                held / (backend.context * backend.config.slots)
            )


def _decoded(slot: dict[str, Any]) -> int:
    token = slot.get("next_token")
    first = token[0] if isinstance(token, list) and token else token
    return int(first.get("n_decoded") or 0) if isinstance(first, dict) else 0
