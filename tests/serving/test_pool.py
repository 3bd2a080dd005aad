"""Engines in child processes.

Answered through an internal key, started again when killed, kept inside the budget.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from kanna.errors import SourceError, UsageError
from kanna.serving.backend import Backend
from kanna.serving.metrics import Metrics
from kanna.serving.pool import ModelPool
from kanna.serving.problems import ApiError
from kanna.serving.settings import GatewaySettings, ModelSpec

SMALL: dict[str, Any] = {"context": 256, "slots": 1, "threads": 1}


def with_pool(pool: ModelPool, work: Callable[[aiohttp.ClientSession], Awaitable[None]]) -> None:
    async def run() -> None:
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(force_close=True)
        ) as session:
            pool.start(session)
            try:
                await work(session)
            finally:
                await pool.stop()

    asyncio.run(run())


async def chat(
    session: aiohttp.ClientSession, backend: Backend, headers: dict[str, str] | None = None
) -> int:
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
    url = f"{backend.main.url}/v1/chat/completions"
    async with session.post(
        url, headers=backend.main.headers if headers is None else headers, json=body
    ) as answer:
        if answer.status == 200:
            assert (await answer.json())["usage"]["completion_tokens"] == 2
        return answer.status


def test_an_engine_wants_its_key_and_comes_back_after_kill_9(smollm2: Path) -> None:
    metrics = Metrics()
    pool = ModelPool([ModelSpec(name="m", path=smollm2)], GatewaySettings(**SMALL), metrics)
    pool.prestart()

    async def work(session: aiohttp.ClientSession) -> None:
        served = pool.find("m")
        backend = await pool.acquire(served)
        assert await chat(session, backend, {}) == 401
        assert await chat(session, backend) == 200
        backend.release()
        first = backend.main.pid
        assert first
        os.kill(first, signal.SIGKILL)
        while backend.main.state == "ready":
            await asyncio.sleep(0.01)
        backend = await pool.acquire(served)
        assert backend.main.pid != first
        assert await chat(session, backend) == 200
        backend.release()
        assert (
            'kanna_engine_restarts_total{model="m",role="generate"} 1.0'
            in metrics.exposition().decode()
        )
        assert await pool.loader.unload(served)
        assert pool.loader.used == 0

    with_pool(pool, work)


def test_an_idle_model_makes_room_and_a_busy_one_does_not(smollm2: Path) -> None:
    specs = [
        ModelSpec(name="one", path=smollm2, aliases=["first"]),
        ModelSpec(name="two", path=smollm2),
    ]
    needed = ModelPool(specs, GatewaySettings(**SMALL), Metrics()).find("one").bytes
    pool = ModelPool(specs, GatewaySettings(**SMALL, memory=int(1.5 * needed)), Metrics())

    async def work(session: aiohttp.ClientSession) -> None:
        one, two = pool.find("first"), pool.find("two")
        backend = await pool.acquire(one)
        with pytest.raises(ApiError, match="in use: one") as caught:
            await pool.acquire(two)
        assert (caught.value.status, caught.value.code) == (503, "insufficient_memory")
        backend.release()
        (await pool.acquire(two)).release()
        assert one.backend is None
        assert pool.loader.used == needed

    with_pool(pool, work)


def test_a_swap_waits_for_requests_on_the_old_artefact(smollm2: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.gguf"
    other.symlink_to(smollm2)
    pool = ModelPool([ModelSpec(name="m", path=smollm2)], GatewaySettings(**SMALL), Metrics())

    async def work(session: aiohttp.ClientSession) -> None:
        served = pool.find("m")
        old = await pool.acquire(served)
        swap = asyncio.create_task(pool.swap(served, other))
        while served.backend is old:
            await asyncio.sleep(0.01)
        assert await chat(session, old) == 200  # what began on the old one ends there
        new = await pool.acquire(served)
        assert await chat(session, new) == 200
        new.release()
        assert not swap.done()
        old.release()
        await swap
        assert served.spec.path == other
        assert old.main.pid is None

    with_pool(pool, work)


def test_what_cannot_be_served_is_refused_with_the_reason(smollm2: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the budget is"):
        ModelPool(
            [ModelSpec(name="m", path=smollm2)], GatewaySettings(**SMALL, memory=1000), Metrics()
        )
    with pytest.raises(SourceError, match="does not exist"):
        ModelPool(
            [ModelSpec(name="m", path=tmp_path / "none.gguf")], GatewaySettings(**SMALL), Metrics()
        )
    (tmp_path / "text.gguf").write_text("no model")
    with pytest.raises(SourceError, match="no engine runs"):
        ModelPool(
            [ModelSpec(name="m", path=tmp_path / "text.gguf")], GatewaySettings(**SMALL), Metrics()
        )
    with pytest.raises(UsageError, match="two models"):
        ModelPool(
            [ModelSpec(name="a", path=smollm2), ModelSpec(name="b", path=smollm2, aliases=["a"])],
            GatewaySettings(**SMALL),
            Metrics(),
        )
    # A package gives every model its own name in small letters for an alias.
    assert (
        ModelPool(
            [ModelSpec(name="m", path=smollm2, aliases=["m"])], GatewaySettings(**SMALL), Metrics()
        )
        .find("m")
        .name
        == "m"
    )
    with pytest.raises(UsageError, match="two models"):
        ModelPool([ModelSpec(name="m", path=smollm2)] * 2, GatewaySettings(**SMALL), Metrics())


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_engines_end_with_a_gateway_that_is_killed(smollm2: Path) -> None:
    code = f"""
import time
from pathlib import Path
from kanna.serving.metrics import Metrics
from kanna.serving.pool import ModelPool
from kanna.serving.settings import GatewaySettings, ModelSpec
settings = GatewaySettings(context=256, slots=1, threads=1)
pool = ModelPool([ModelSpec(name="m", path=Path({str(smollm2)!r}))], settings, Metrics())
pool.prestart()
print(pool.find("m").backend.main.pid, flush=True)
time.sleep(60)
"""
    gateway = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert gateway.stdout
    engine = psutil.Process(int(gateway.stdout.readline()))
    gateway.kill()
    gateway.wait()
    gateway.stdout.close()
    end = time.monotonic() + 10
    while (
        time.monotonic() < end and engine.is_running() and engine.status() != psutil.STATUS_ZOMBIE
    ):
        time.sleep(0.05)
    assert not engine.is_running() or engine.status() == psutil.STATUS_ZOMBIE
