"""Engines that hang, or take too much: seen, replaced, and nobody else is told so for long."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from helpers import engine_artefacts
from helpers.gateways import Local, local, until

from kanna.serving import watchdog
from kanna.serving.watchdog import Watchdog, Watched

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
COMPLETION = "/v1/completions"
GOOD: Any = {"prompt": "hola", "max_tokens": 4, "temperature": 0}


def ready(gateway: Local) -> int:
    try:
        with urllib.request.urlopen(gateway.url + "/ready", timeout=5) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.parametrize("engine", engine_artefacts.ENGINES)
def test_an_engine_that_hangs_is_replaced_and_its_requests_can_be_sent_again(
    engine: str,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watchdog, "_LEAST", 3.0)
    monkeypatch.setattr(watchdog, "_PATIENCE", 0.0)
    monkeypatch.setattr(watchdog, "_UNMEASURED", 15.0)
    artefact = engine_artefacts.shared(engine, tmp_path_factory)
    with local(artefact, tmp_path, replay=False) as gateway:
        status, expected = gateway.post(COMPLETION, GOOD)
        assert status == 200 and ready(gateway) == 200
        time.sleep(1)  # until its speed was measured
        hung = gateway.main.pid
        os.kill(hung, signal.SIGSTOP)
        answers: list[tuple[int, Any]] = []
        asked = threading.Thread(target=lambda: answers.append(gateway.post(COMPLETION, GOOD)))
        asked.start()
        until(lambda: gateway.main.state == "restarting", 40)
        monkeypatch.setattr(watchdog, "_LEAST", 60.0)  # the next one is not hurried
        assert ready(gateway) == 503
        asked.join()
        [(status, answer)] = answers
        assert status == 503 and answer["error"]["code"] == "engine_restarting"
        assert gateway.post(COMPLETION, GOOD)[1]["choices"] == expected["choices"]
        assert gateway.main.pid != hung and gateway.main.restarts == 1
        assert "no progress" in gateway.main.reason
        assert ready(gateway) == 200


def test_an_engine_that_takes_too_much_memory_is_replaced(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    artefact = engine_artefacts.shared("onnx", tmp_path_factory)
    with local(artefact, tmp_path, replay=False, settings={"engine_memory": 1 << 20}) as gateway:
        until(lambda: gateway.main.restarts >= 1, 20)
        assert "of memory" in gateway.main.reason


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's limits")
def test_an_engine_ends_before_the_gateway_does(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """In the kernel's order of what it ends, and with an end to what it may take."""
    artefact = engine_artefacts.shared("gguf", tmp_path_factory)
    with local(artefact, tmp_path, replay=False) as gateway:
        assert gateway.post(COMPLETION, GOOD)[0] == 200
        process = Path(f"/proc/{gateway.main.pid}")
        own = int(Path("/proc/self/oom_score_adj").read_text())
        assert int((process / "oom_score_adj").read_text()) > own
        limits = (process / "limits").read_text().splitlines()
        assert "unlimited" not in next(line for line in limits if line.startswith("Max data"))


async def _watchdog(answer: Callable[..., Any], watched: dict[str, Any], work: Any) -> Any:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        async with aiohttp.ClientSession() as session:
            usual: dict[str, Any] = {
                "url": f"http://127.0.0.1:{runner.addresses[0][1]}",
                "headers": {},
                "pid": os.getpid(),
                "probe": "/slots",
                "measured": "/v1/completions",
                "batch": 0,
                "memory": 0,
                "idle": lambda: False,
            }
            return await work(Watchdog(Watched(**usual | watched), session))
    finally:
        await runner.cleanup()


def test_a_slow_device_gets_the_time_that_its_largest_batch_takes() -> None:
    async def slow(_: web.Request) -> web.Response:
        await asyncio.sleep(0.5)  # 32 tokens
        return web.json_response({})

    async def measure(dog: Watchdog) -> float:
        await dog._measure()
        return dog.limit

    limit = asyncio.run(_watchdog(slow, {}, measure))
    assert 40 <= limit < 120, "512 tokens take 8 seconds, which is no reason to end it"
    limit = asyncio.run(_watchdog(slow, {"batch": 4096}, measure))
    assert limit > 250


def test_a_thread_that_says_how_long_it_computes_is_believed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An engine may answer although the thread that computes stands still."""
    monkeypatch.setattr(watchdog, "_UNMEASURED", 2.0)

    async def stuck(_: web.Request) -> web.Response:
        return web.json_response({"status": "ok", "seconds_computing": 7})

    watched = {"probe": "/health", "measured": ""}
    reason = asyncio.run(_watchdog(stuck, watched, lambda dog: dog.watch()))
    assert "no progress" in reason


def test_an_engine_that_computes_for_nobody_is_seen() -> None:
    async def idle(dog: Watchdog) -> str:
        dog.limit = 2.0
        return await asyncio.wait_for(dog._watch_process(), 20)

    async def nothing(_: web.Request) -> web.Response:
        return web.json_response([])

    spinning = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        watched = {"pid": spinning.pid, "idle": lambda: True}
        assert "nobody waits" in asyncio.run(_watchdog(nothing, watched, idle))
    finally:
        spinning.kill()
        spinning.wait()
