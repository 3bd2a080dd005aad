"""The gateway when things break.

Kill -9, a full disk, ten thousand connections, bodies without end.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import socket
import sqlite3
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from helpers.gateway_process import start, stop
from helpers.gateways import local, until
from helpers.replay_engine import program

from kanna.serving import server
from kanna.serving.guard.keys import KeyUsage, today
from kanna.serving.guard.ledger import Ledger
from kanna.serving.guard.store import KeyStore

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and limits of POSIX")
ASK = json.dumps({"model": "small", "prompt": "a", "max_tokens": 3}).encode()


def usage(state: Path) -> tuple[int, int]:
    """Requests and generated tokens in the database."""
    row = sqlite3.connect(state / "keys.sqlite").execute(
        "SELECT SUM(requests), SUM(completion_tokens) FROM usage"
    )
    requests, tokens = row.fetchone()
    return requests or 0, tokens or 0


def test_kill_9_of_the_gateway_loses_no_usage_that_was_answered(
    tiny_gguf: Path, tmp_path: Path
) -> None:
    answered = 0
    for _ in range(2):  # and again on what the first one left
        running = start(tiny_gguf, tmp_path, "--llama-server", program(tmp_path))
        until(lambda: running.get("/ready")[0] == 200, 30)  # noqa: B023
        below = psutil.Process(running.process.pid).children(recursive=True)
        lock, ended = threading.Lock(), threading.Event()

        def ask() -> None:
            nonlocal answered
            while not ended.is_set():  # noqa: B023
                try:
                    status, _ = running.post("/v1/completions", ASK)  # noqa: B023
                except OSError:
                    return
                with lock:  # noqa: B023
                    answered += status == 200

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(1)
        running.process.kill()
        running.process.wait()
        ended.set()
        for thread in threads:
            thread.join()
        requests, tokens = usage(tmp_path)
        assert answered > 10
        assert answered <= requests <= answered + 8, (
            "at most those that were under way were counted and not answered"
        )
        assert tokens == 3 * requests
        _, alive = psutil.wait_procs(below, 10)
        assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE], (
            "its engines ended with it"
        )


def test_a_device_that_is_lost_is_told_and_its_engine_comes_back(
    tiny_gguf: Path, tmp_path: Path
) -> None:
    """As llama-server ends when Vulkan's driver refuses further work."""
    lost = "terminate called\n  what():  vk::Queue::submit: ErrorDeviceLost"
    told: list[str] = []
    with server.warnings_told(told.append), local(tiny_gguf, tmp_path) as gateway:
        first = gateway.main.pid
        dies = {"prompt": "a", "replay": {"last_words": lost}}
        status, answer = gateway.post("/v1/completions", dies)
        assert (status, answer["error"]["code"]) == (503, "engine_restarting")
        assert "can be sent again" in answer["error"]["message"]
        ask = {"prompt": "a", "max_tokens": 2}
        until(lambda: gateway.post("/v1/completions", ask)[0] == 200, 30)
        assert gateway.main.pid != first
    [line] = told
    assert line.startswith("The engine of m is started again: it ended with code -6; ")
    assert "ErrorDeviceLost" in line and "driver's log" in line and "--llama-server never" in line


def test_a_full_disk_stops_no_answer_and_loses_no_usage(tiny_gguf: Path, tmp_path: Path) -> None:
    """/dev/full takes the audit log, and the database must not grow."""
    running = start(
        tiny_gguf, tmp_path, "--llama-server", program(tmp_path), "--audit", "/dev/full"
    )
    try:
        for _ in range(5):
            assert running.post("/v1/completions", ASK)[0] == 200
    finally:
        stop(running)
    assert usage(tmp_path) == (5, 15)


def test_usage_that_found_no_room_is_written_later(tmp_path: Path) -> None:
    async def run() -> None:
        store = KeyStore(tmp_path / "keys.sqlite")
        database: Any = store._db
        pages = database.execute("PRAGMA page_count").fetchone()[0]
        database.execute(f"PRAGMA max_page_count = {pages}")
        ledger = Ledger(store, None)
        for i in range(400):
            await ledger.record(
                KeyUsage(key=f"key-{i}", model="m" * 200, prompt_tokens=1, completion_tokens=2),
                None,
            )
        assert ledger.failures > 0, "SQLite says that the disk is full"
        database.execute("PRAGMA max_page_count = 100000")
        await ledger.record(
            KeyUsage(key="last", model="m", prompt_tokens=1, completion_tokens=2), None
        )
        assert sum(store.tokens_of_day(today()).values()) == 3 * 401
        ledger.close()

    asyncio.run(run())


def test_ten_thousand_connections(tiny_gguf: Path, tmp_path: Path) -> None:
    """Half of a request from each.

    Those above the limit are told so, all are let go in time, and nothing stays.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 10_000 + 2_500
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"only {hard} open files are allowed here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    try:
        with local(tiny_gguf, tmp_path, connections=2000, header_time=3.0) as gateway:
            refused, held = 0, list[socket.socket]()
            for _ in range(10_000):
                one = socket.create_connection(("127.0.0.1", gateway.port), timeout=20)
                one.send(b"POST /v1/chat/compl")
                held.append(one)
            for one in held:
                try:
                    refused += one.recv(4096).startswith(b"HTTP/1.1 503")
                except ConnectionError:
                    refused += 1  # the answer was lost to what it had not read
                one.close()
            assert refused > 0
            until(lambda: gateway.post("/v1/completions", {"prompt": "a"})[0] == 200)
            assert gateway.inside == 0
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_body_of_64_megabytes_is_not_kept(tiny_gguf: Path, tmp_path: Path) -> None:
    running = start(tiny_gguf, tmp_path, "--llama-server", program(tmp_path))
    try:
        process = psutil.Process(running.process.pid)
        before = process.memory_info().rss
        host, port = running.url[7:].split(":")
        for head in (b"content-length: 67108864\r\n\r\n", b"transfer-encoding: chunked\r\n\r\n"):
            with socket.create_connection((host, int(port)), timeout=20) as one:
                one.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n" + head)
                part = b" " * (1 << 20)
                try:
                    for _ in range(64):
                        one.sendall(part if b"length" in head else b"100000\r\n" + part + b"\r\n")
                    assert one.recv(100).startswith(b"HTTP/1.1 413")
                except ConnectionError:
                    pass  # closed before all of it was sent
        assert process.memory_info().rss - before < 48e6
        assert running.post("/v1/completions", ASK)[0] == 200
        os.kill(running.process.pid, signal.SIGTERM)
        assert running.process.wait(20) in {0, -signal.SIGTERM}, "SIGTERM ends it in order"
    finally:
        stop(running)
