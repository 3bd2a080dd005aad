"""Gauges that are set when somebody asks for the metrics."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import aiohttp

from kanna.serving.backend import Backend
from kanna.serving.pool import ModelPool

_UNREADABLE = (
    aiohttp.ClientError,
    OSError,
    ValueError,
    TypeError,
    KeyError,
    asyncio.TimeoutError,
)
"""Of an engine that ends, or does not know its slots: the gauge stays as it was."""


async def update(pool: ModelPool) -> None:
    """Set the gauges of memory, queues and slots."""
    metrics = pool.metrics
    metrics.memory_used.set(pool.loader.used)
    metrics.memory_budget.set(pool.loader.budget)
    for status in await asyncio.to_thread(pool.status):
        name = status["name"]
        metrics.series(metrics.running, name).set(status.get("running", 0))
        metrics.series(metrics.waiting, name).set(status.get("waiting", 0))
        metrics.series(metrics.resident_memory, name).set(status.get("resident", 0))
    for model in pool.models.values():
        busy, used = 0, 0.0
        if model.backend is not None and model.backend.main.state == "ready":
            slots = None
            with suppress(*_UNREADABLE):
                assert pool.loader.session
                slots = await _slots(model.backend, pool.loader.session)
            if slots is None:
                continue
            busy, used = slots
        metrics.series(metrics.busy_slots, model.name).set(busy)
        metrics.series(metrics.kv_used_ratio, model.name).set(used)


async def _slots(backend: Backend, session: aiohttp.ClientSession) -> tuple[int, float]:
    """Slots at work, and the share of all slots' context that has tokens."""
    timeout = aiohttp.ClientTimeout(total=1)
    url = f"{backend.main.url}/slots"
    async with session.get(url, headers=backend.main.headers, timeout=timeout) as response:
        slots = await response.json()
    busy = [slot for slot in slots if slot.get("is_processing")]
    tokens = sum(int(slot.get("n_prompt_tokens") or 0) + _decoded(slot) for slot in busy)
    return len(busy), tokens / (backend.context * backend.config.slots)


def _decoded(slot: dict[str, Any]) -> int:
    """Tokens that a slot has generated."""
    token = slot.get("next_token")
    first = token[0] if isinstance(token, list) and token else token
    return int(first.get("n_decoded") or 0) if isinstance(first, dict) else 0
