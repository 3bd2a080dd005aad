"""A gateway in a thread of this process, with limits that no option sets."""

from __future__ import annotations

import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from helpers.replay_engine import program
from kanna.serving.app import create_app
from kanna.serving.canary import CanarySpec
from kanna.serving.connections import protocol
from kanna.serving.guard.store import KeyStore
from kanna.serving.metrics import Metrics
from kanna.serving.pool import ModelPool
from kanna.serving.settings import GatewayLimits, GatewaySettings, ModelSpec


@dataclass
class Local:
    port: int
    pool: ModelPool
    store: KeyStore
    folder: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def post(self, path: str, body: Any) -> tuple[int, Any]:
        data = body if isinstance(body, bytes) else json.dumps({"model": "m", **body}).encode()
        request = urllib.request.Request(
            self.url + path, data, {"content-type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    def open(self, path: str, body: dict[str, Any]) -> socket.socket:
        """A connection on which the request was sent and nothing read yet."""
        data = json.dumps({"model": "m", **body}).encode()
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(data)}\r\n\r\n"
        connection.sendall(head.encode() + data)
        return connection

    def engine(self) -> dict[str, Any]:
        """What the replay engine saw."""
        main = self.main
        request = urllib.request.Request(main.url + "/seen", headers=main.headers)
        with urllib.request.urlopen(request, timeout=5) as answer:
            return json.loads(answer.read())

    @property
    def main(self) -> Any:
        backend = self.pool.find("m").backend
        assert backend
        return backend.main

    @property
    def inside(self) -> int:
        backend = self.pool.find("m").backend
        return backend.admission.running if backend else 0

    def log(self) -> list[dict[str, Any]]:
        path = self.folder / "audit.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def until(what: Any, seconds: float = 10.0) -> None:
    """Wait for a condition."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.01)


@contextmanager
def local(
    model: Path,
    folder: Path,
    *,
    slots: int = 2,
    replay: bool = True,
    canary: str = "",
    slowdown: float = 5.0,
    settings: dict[str, Any] | None = None,
    adapters: Sequence[Path] = (),
    **limits: Any,
) -> Iterator[Local]:
    """A gateway in front of the replay engine, or of the model's real one.

    `settings`: more of its settings; `adapters`: of the model.
    """
    usual: dict[str, Any] = {
        "context": 256,
        "slots": slots,
        "threads": 1,
        "audit": folder / "audit.jsonl",
        "native_program": program(folder) if replay else None,
        "limits": GatewayLimits(**limits),
    }
    gateway_settings = GatewaySettings(**usual | (settings or {}))
    store = KeyStore(folder / "keys.sqlite")
    canaries = [CanarySpec.parse(canary, "m", 0.8, slowdown)] if canary else []
    spec = ModelSpec(name="m", path=model, adapters=list(adapters))
    pool = ModelPool([spec], gateway_settings, Metrics(), canaries)
    up = threading.Event()
    with closing(socket.socket()) as bound:
        bound.bind(("127.0.0.1", 0))
        bound.listen(1024)
        app = create_app(pool, store, gateway_settings, up.set)
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                log_level="error",
                access_log=False,
                http=protocol(gateway_settings.limits),
                ws="none",
                timeout_graceful_shutdown=1,
            )
        )

        def run() -> None:
            pool.prestart()
            server.run(sockets=[bound])

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            assert up.wait(30)
            running = Local(bound.getsockname()[1], pool, store, folder)
            until(lambda: running.main.state in ("ready", "failed"), 60)
            yield running
        finally:
            server.should_exit = True
            thread.join(20)
            pool.kill()
            store.close()


def langchain(url: str, prompts: tuple[str, str]) -> dict[str, Any]:
    """Check LangChain's client with the model `m`, whole, streamed and in a batch.

    Returns its options.
    """
    from langchain_openai import ChatOpenAI

    options: Any = {
        "base_url": url + "/v1",
        "api_key": "none",
        "model": "m",
        "temperature": 0,
        "max_tokens": 12,
    }
    model = ChatOpenAI(**options, stream_usage=True)
    whole = model.invoke(prompts[0])
    assert whole.content and whole.usage_metadata and whole.usage_metadata["output_tokens"] <= 12
    parts = list(model.stream(prompts[0]))
    assert "".join(str(p.content) for p in parts) == whole.content
    assert any(p.usage_metadata for p in parts)
    batch = model.batch(list(prompts))
    assert batch[0].content == whole.content and batch[1].content
    return options
