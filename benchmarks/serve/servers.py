"""Gateways and engines to measure, each in a process of its own, and a client that costs little."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from kanna.serving.engines.base import EngineConfig

ROOT = Path(__file__).resolve().parents[2]
CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "Tell me a long story about a hand plane."}]


@dataclass
class Server:
    """Something that answers chats at a port; `pids` are the processes that are not the engine."""

    port: int
    key: str = ""
    pids: list[int] = field(default_factory=list[int])

    def cpu(self) -> float:
        """CPU seconds so far."""
        times = [psutil.Process(pid).cpu_times() for pid in self.pids]
        return sum(t.user + t.system for t in times)


def environment() -> dict[str, str]:
    """The environment with this checkout's kanna on the path."""
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    return os.environ | {"PYTHONPATH": path}


def convert(source: Path, out: Path, *options: str) -> None:
    """Run `kanna convert`."""
    command = [sys.executable, "-m", "kanna", "convert", str(source), "-o", str(out), *options]
    subprocess.run([*command, "--quiet"], check=True, env=environment())


def replay_program(folder: Path) -> str:
    """A program in the place of llama.cpp's server that answers at once from a script."""
    sys.path.append(str(ROOT / "tests"))
    from helpers.replay_engine import program

    return program(folder)


@contextmanager
def gateway(model: Path, *options: object) -> Iterator[Server]:
    """A gateway with one model, named m."""
    with tempfile.TemporaryDirectory() as state:
        command = ["-m", "kanna", "serve", f"m={model}", "--port", "0", "--state", state]
        process = subprocess.Popen(
            [sys.executable, *command, *map(str, options)],
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        try:
            assert process.stderr
            for line in process.stderr:
                if address := re.search(r"http://\S+:(\d+)/v1", line):
                    yield Server(int(address[1]), pids=[process.pid])
                    return
            raise SystemExit(f"the gateway ended with {process.wait()}")
        finally:
            process.send_signal(2)
            process.wait(20)


@contextmanager
def engine(
    model: Path, *, slots: int, context: int, threads: int, program: str | None = None
) -> Iterator[Server]:
    """The child process the gateway would start, alone."""
    config = EngineConfig(
        engine="gguf",
        path=str(model),
        name="m",
        key="key",
        context=context,
        slots=slots,
        threads=threads,
        program=program,
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "kanna.serving.child", "gguf"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment(),
    )
    try:
        assert process.stdin and process.stdout
        process.stdin.write(config.to_json() + "\n")
        process.stdin.flush()
        server = Server(int(json.loads(process.stdout.readline())["port"]), "key")
        if program:
            _wait_for(server)
        yield server
    finally:
        process.kill()
        process.wait()


def _wait_for(server: Server, seconds: float = 60) -> None:
    """Until it answers."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            asyncio.run(ask(server, {"max_tokens": 1, "messages": MESSAGES}))
            return
        except OSError:
            time.sleep(0.05)


@dataclass(frozen=True, slots=True)
class Answer:
    """One streamed answer: seconds to its first event and to its end, and events with text."""

    first: float
    whole: float
    events: int


class Client:
    """One connection that is kept, read without parsing more than the ends of answers."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._used = False

    async def ask(self, body: dict[str, Any]) -> Answer:
        """Send a chat and read the stream to its end."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self.server.port)
        reader, writer = self._streams
        begun = time.perf_counter()
        writer.write(self._request(body))
        first, events, tail = 0.0, 0, b""
        while not tail.endswith(b"\r\n0\r\n\r\n"):
            part = await reader.read(1 << 16)
            if not part:
                used, self._streams, self._used = self._used, None, False
                if used and not tail:  # llama.cpp's server closes after some answers
                    return await self.ask(body)
                raise OSError(f"closed after {tail[-200:]!r}")
            first = first or time.perf_counter() - begun
            events += part.count(b'"content":"') + part.count(b'"content": "')
            tail = tail[-64:] + part
        if b"[DONE]" not in tail:
            raise SystemExit(f"an answer without an end: {tail[-300:]!r}")
        self._used = True
        return Answer(first, time.perf_counter() - begun, events)

    def _request(self, body: dict[str, Any]) -> bytes:
        data = json.dumps({"model": "m", "stream": True, **body}).encode()
        lines = [
            f"POST {CHAT} HTTP/1.1",
            "host: localhost",
            f"authorization: Bearer {self.server.key}",
            f"content-length: {len(data)}",
            "\r\n",
        ]
        return "\r\n".join(lines).encode() + data

    def close(self) -> None:
        """Close the connection."""
        if self._streams:
            self._streams[1].close()


async def ask(server: Server, body: dict[str, Any]) -> Answer:
    """One chat on a connection of its own."""
    client = Client(server)
    try:
        return await client.ask(body)
    finally:
        client.close()


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine on the fastest event loop there is."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(coroutine)
    return uvloop.run(coroutine)
