"""A fleet on this machine: its server in a thread or a process, agents beside it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kanna import fleet
from kanna.fleet import service
from kanna.fleet.access import KeyBook
from kanna.fleet.app import create_app
from kanna.fleet.device.polling import AgentResult, agent
from kanna.fleet.service import FleetService
from kanna.fleet.store import FleetStore
from kanna.self_testing import runner

CHECK = """#!/bin/sh
# A self-test: the model says what becomes of it.
case "$(head -c 4 "$1"/model.gguf)" in
good) exit 0 ;;
none) exit 3 ;;
slow) sleep 60 ;;
*) echo '{"checks": [{"name": "tokens", "ok": false, "detail": "7, not 5"}]}'; exit 1 ;;
esac
"""


def model(folder: Path, content: bytes, name: str = "m.gguf") -> Path:
    """A file that passes for a model, with a self-test beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes(content)
    values = {
        "format": runner.FORMAT,
        "artefact": name,
        "files": {name: "0" * 64},
        "ids": [1],
        "positions": [{"at": 1, "token": 1, "logprob": 0.0, "band": 1.0}],
    }
    path.with_name(f"{name}.selftest.json").write_text(json.dumps(values))
    return path


class Weather:
    """ASGI middleware that notes requests of files, and cuts their answers where it is told to."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.cuts: list[int] = []
        self.ranges: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/v1/blobs/"):
            await self.app(scope, receive, send)
            return
        self.ranges.append(dict(scope["headers"]).get(b"range", b"").decode())
        left = self.cuts.pop(0) if self.cuts else None

        async def cut(message: Message) -> None:
            nonlocal left
            if left is not None and message["type"] == "http.response.body":
                body = message.get("body", b"")[:left]
                left -= len(body)
                await send({"type": "http.response.body", "body": body, "more_body": True})
                if not left:
                    raise ConnectionError("cut")
                return
            await send(message)

        await self.app(scope, receive, cut)


class HereFleet:
    """A server in a thread of this process, with its folder, and agents in this process."""

    def __init__(self, folder: Path, store: FleetStore, app: Weather, url: str) -> None:
        self.folder, self.store, self.weather, self.url = folder, store, app, url
        self.server = fleet.FleetServer(
            url=self.url, key_file=folder / "operator.key", insecure_http=True
        )
        self.check = folder / "check.sh"
        self.check.write_text(CHECK)
        self.check.chmod(0o755)
        self.published = 0

    def add(self, name: str, **options: Any) -> None:
        made = fleet.add_device(name, server=self.server, **options)
        (self.folder / f"{name}.key").write_text(made.key)

    def publish(self, content: bytes, **options: Any) -> str:
        self.published += 1
        path = model(self.folder / f"published-{self.published}", content)
        return fleet.publish(path, server=self.server, **options).digest

    def rollout(self, *rings: str, **options: Any) -> int:
        made = fleet.rollout(server=self.server, ring=rings or ("100%",), **options)
        return made.rollout["id"]

    def home(self, name: str) -> Path:
        return self.folder / "devices" / name

    def agent(self, name: str, **options: Any) -> AgentResult:
        key = self.folder / f"{name}.key"
        given: dict[str, Any] = {"self_test": str(self.check), "key_file": key} | options
        return agent(self.home(name), server=self.url, once=True, **given)

    def content(self, name: str) -> bytes:
        """What the current version of a device holds."""
        return (self.home(name) / "current" / "model.gguf").read_bytes()

    def until(self, number: int, state: str, ring: int | None = None) -> None:
        """Wait until a rollout is in a state, and its ring, counted from 1, is open."""

        def there() -> bool:
            one = self.store.rollout(number)
            assert one is not None
            return one.state == state and ring in (None, one.ring + 1)

        wait_for(there)


def wait_for(there: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end
        time.sleep(0.01)


@contextmanager
def here(
    folder: Path,
    poll: float = 60.0,
    place: str | Path | None = None,
    host: str = "127.0.0.1",
) -> Generator[HereFleet]:
    """A server in a thread, which looks at rollouts often; `place` of its store, if not there."""
    folder.mkdir(parents=True, exist_ok=True)
    where = place or folder / "f.sqlite"
    with pytest.MonkeyPatch.context() as patch, closing(FleetStore(where)) as store:
        patch.setattr(service, "_TICK", 0.02)
        KeyBook(store).make_first(folder)
        weather = Weather(create_app(FleetService(store, folder, poll)))
        config = uvicorn.Config(weather, host=host, port=0, log_level="critical", access_log=False)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        wait_for(lambda: server.started)
        port = server.servers[0].sockets[0].getsockname()[1]
        try:
            yield HereFleet(folder, store, weather, f"http://{host}:{port}")
        finally:
            server.should_exit = True
            thread.join(30)


class ServerProcess:
    """`kanna fleet serve` as a user starts it."""

    def __init__(self, state: Path, *options: str) -> None:
        words = [sys.executable, "-m", "kanna", "fleet", "serve", "--state", str(state)]
        self.process = subprocess.Popen(
            [*words, *options], stderr=subprocess.PIPE, text=True, env=os.environ
        )
        self.state, self.url, lines = state, "", list[str]()
        assert self.process.stderr
        for line in self.process.stderr:
            lines.append(line)
            if address := re.search(r"(https?://\S+)", line):
                self.url = address[1]
                return
        raise AssertionError(f"the server ended with {self.process.wait()}: {lines}")

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(20)
        finally:
            self.process.kill()
            self.process.wait()
