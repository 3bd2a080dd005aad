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
from helpers.honest_clients import Outcome, ask

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


_COMPUTING = """
import gc, re, sys, threading, time
from pathlib import Path

def hang():
    while not Path({flag!r}).exists():
        time.sleep(0.05)
    Path({flag!r}).unlink()
    from kanna.serving.engines._worker import Worker
    for worker in [one for one in gc.get_objects() if isinstance(one, Worker)]:
        worker._tasks.put(lambda batch: re.match("(a+)+$", "a" * 64 + "b"))

if "kanna.serving.child" in sys.orig_argv:
    threading.Thread(target=hang, daemon=True).start()
"""
"""A pattern that takes years, in the thread that computes, which no other thread interrupts."""


def _stop(gateway: Local, _: Path) -> None:
    os.kill(gateway.main.pid, signal.SIGSTOP)


def _compute(_: Local, flag: Path) -> None:
    flag.touch()
    until(lambda: not flag.exists())


HANGS = [(_stop, engine) for engine in engine_artefacts.ENGINES] + [(_compute, "mlx")]
NAMES = [f"{hang.__name__[1:]}-{engine}" for hang, engine in HANGS]


@pytest.fixture
def flag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that makes the next engine compute for ever, once."""
    site = tmp_path / "site"
    site.mkdir()
    path = tmp_path / "hang"
    (site / "sitecustomize.py").write_text(_COMPUTING.format(flag=str(path)))
    monkeypatch.syspath_prepend(str(site))
    return path


def _hang(
    gateway: Local,
    hang: Callable[[Local, Path], None],
    flag: Path,
    on_notice: Callable[[], None] = lambda: None,
) -> tuple[float, float]:
    """Let its engine hang while some wait for it, and follow what the gateway says.

    Returns when it was noticed and when there was another engine, in seconds after it hung.
    """
    hung, body = gateway.main.pid, {"model": "m", **GOOD}
    expected = ask(gateway.url, "none", body)
    assert expected.status == 200 and ready(gateway) == 200
    hang(gateway, flag)
    started = time.monotonic()
    outcomes: list[Outcome] = []
    asking = [
        threading.Thread(target=lambda: outcomes.append(ask(gateway.url, "none", body)))
        for _ in range(3)
    ]
    for thread in asking:
        thread.start()
    until(lambda: gateway.main.state == "restarting", 60)
    noticed = time.monotonic() - started
    on_notice()
    answers: list[int] = []
    while (status := ready(gateway)) != 200:
        answers.append(status)
        assert gateway.main.pid != hung or status == 503
        assert time.monotonic() - started < 120
        time.sleep(0.02)
    restarted = time.monotonic() - started
    assert set(answers) == {503}, "not ready, until there is another one"
    again = ask(gateway.url, "none", body)
    assert again.status == 200 and again.text == expected.text
    for thread in asking:
        thread.join()
    assert all(o.status == 503 and o.retryable and o.retry_after for o in outcomes), outcomes
    assert gateway.main.pid != hung and gateway.main.restarts == 1
    assert "no progress" in gateway.main.reason
    return noticed, restarted


@pytest.mark.parametrize(("hang", "engine"), HANGS, ids=NAMES)
def test_an_engine_that_hangs_is_replaced_and_its_requests_can_be_sent_again(
    hang: Callable[[Local, Path], None],
    engine: str,
    flag: Path,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watchdog, "_LEAST", 3.0)
    monkeypatch.setattr(watchdog, "_PATIENCE", 0.0)
    monkeypatch.setattr(watchdog, "_UNMEASURED", 15.0)
    monkeypatch.setattr(watchdog, "_SLOWED", 100.0)
    artefact = engine_artefacts.shared(engine, tmp_path_factory)
    with local(artefact, tmp_path, replay=False) as gateway:
        time.sleep(1)  # until its speed was measured
        # The next one is not hurried.
        _hang(gateway, hang, flag, lambda: monkeypatch.setattr(watchdog, "_LEAST", 60.0))


@pytest.mark.chaos
@pytest.mark.parametrize(("hang", "engine"), HANGS, ids=NAMES)
def test_an_engine_that_hung_is_replaced_within_ten_seconds(
    hang: Callable[[Local, Path], None],
    engine: str,
    flag: Path,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """With the settings of every gateway: ten seconds after what the watchdog allows it."""
    artefact = engine_artefacts.shared(engine, tmp_path_factory)
    with local(artefact, tmp_path, replay=False) as gateway:
        time.sleep(3)
        noticed, restarted = _hang(gateway, hang, flag)
        limit = gateway.main._best_limit
        print(f"{engine}: limit {limit:.1f} s, noticed {noticed:.1f}, ready {restarted:.1f}")
        assert limit and noticed < limit + 3 * watchdog._INTERVAL
        assert restarted - noticed <= 10


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


@pytest.mark.skipif(sys.platform != "linux", reason="what a process read is counted by Linux")
def test_an_engine_that_stands_still_while_it_starts_is_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watchdog, "_STALLED_START", 2.0)
    monkeypatch.setattr(watchdog, "_INTERVAL", 0.2)

    async def seen(code: str, seconds: float) -> str:
        starting = subprocess.Popen([sys.executable, "-c", code])
        try:
            return await asyncio.wait_for(watchdog.until_stalled(starting.pid), seconds)
        finally:
            starting.kill()
            starting.wait()

    assert "not moved" in asyncio.run(seen("import time; time.sleep(60)", 20))
    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(seen("while True: pass", 4))


def test_an_engine_that_was_measured_is_not_given_longer_when_it_starts_again() -> None:
    """Others that compute meanwhile would let it look slow."""

    async def measure(answer: Any, best: float | None) -> tuple[float, float]:
        async def work(dog: Watchdog) -> tuple[float, float]:
            dog.best = best
            await dog._measure()
            return dog.limit, dog.best or 0.0

        return await _watchdog(answer, {}, work)

    async def slow(_: web.Request) -> web.Response:
        await asyncio.sleep(0.3)
        return web.json_response({})

    limit, best = asyncio.run(measure(slow, None))
    assert limit == best > 20
    assert asyncio.run(measure(slow, 9.0)) == (18.0, 9.0)
