"""Registries on loopback: Debian's docker-registry, and one that lies."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from helpers import needs

CONFIG = """version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {root}}}, delete: {{enabled: true}}}}
http: {{addr: 127.0.0.1:{port}, secret: of-a-test}}
"""


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def docker_registry(folder: Path) -> Generator[str]:
    """A real registry that keeps its blobs in a folder; yields HOST:PORT."""
    program = needs.program("docker-registry", install="docker-registry")
    port = free_port()
    config = folder / "registry.yml"
    config.write_text(CONFIG.format(root=folder / "registry", port=port))
    process = subprocess.Popen(
        [program, "serve", str(config)],
        env=os.environ | {"OTEL_TRACES_EXPORTER": "none"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(200):
            with suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/", timeout=2).close()
                break
            time.sleep(0.05)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


Edit = Callable[[int, dict[str, str], bytes], tuple[int, dict[str, str], bytes]]


@dataclass
class Lies:
    """What a proxy makes of a registry's answers.

    Attributes:
        of: Requests (`METHOD path`) whose answers are edited.
        edit: Status, headers and body, edited.
        asked: Every request.
        dropped_after: Bytes of a body after which the connection ends; it announces all of them.
        times: How often it lies.
    """

    of: str = "^$"
    edit: Edit = lambda status, headers, body: (status, headers, body)
    asked: list[str] = field(default_factory=list[str])
    ranges: list[str] = field(default_factory=list[str])
    dropped_after: int | None = None
    times: int = 1 << 30


@contextmanager
def between(registry: str, lies: Lies) -> Generator[str]:
    """A proxy in front of a registry that lies; yields HOST:PORT."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            sent = self.rfile.read(size)
            line = f"{self.command} {self.path}"
            lies.asked.append(line)
            if self.headers.get("Range"):
                lies.ranges.append(str(self.headers["Range"]))
            upstream = HTTPConnection(*registry.split(":"), timeout=30)  # pyright: ignore[reportArgumentType]
            headers = {k: v for k, v in self.headers.items() if k.lower() != "connection"}
            headers["Host"] = str(self.headers["Host"])
            upstream.request(self.command, self.path, body=sent or None, headers=headers)
            answer = upstream.getresponse()
            body = answer.read()
            status, own = answer.status, dict(answer.getheaders())
            upstream.close()
            lying = bool(re.search(lies.of, line)) and lies.times > 0
            if lying:
                lies.times -= 1
                status, own, body = lies.edit(status, own, body)
            self.send_response(status)
            for name, value in own.items():
                if name.lower() not in ("content-length", "date", "server", "transfer-encoding"):
                    self.send_header(name, value)
            length = own.get("Content-Length", str(len(body)))
            self.send_header("Content-Length", length if self.command == "HEAD" else str(len(body)))
            self.end_headers()
            if self.command == "HEAD":
                return
            if lying and lies.dropped_after is not None:
                self.wfile.write(body[: lies.dropped_after])
                self.close_connection = True
                return
            self.wfile.write(body)

        do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = handle_any  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
