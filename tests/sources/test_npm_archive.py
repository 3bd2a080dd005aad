"""An archive from the registry without npm, from a server on loopback."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from hashlib import sha512
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from kanna.errors import FormatError, MissingError
from kanna.sources import npm_archive

DATA = b"an archive" * 1000


class _Registry(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        there = self.path == "/thing/-/thing-1.0.tgz"
        self.send_response(200 if there else 404)
        self.end_headers()
        self.wfile.write(DATA if there else b"")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server = HTTPServer(("127.0.0.1", 0), _Registry)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("npm_config_registry", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setitem(npm_archive.SHA512, "thing@1.0", sha512(DATA).hexdigest())
    yield
    server.shutdown()
    server.server_close()


def test_what_has_the_hash_is_taken(tmp_path: Path) -> None:
    assert npm_archive.fetch("thing", "1.0", tmp_path, None).read_bytes() == DATA


def test_another_hash_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(npm_archive.SHA512, "thing@1.0", "00")
    with pytest.raises(FormatError, match="hash differs"):
        npm_archive.fetch("thing", "1.0", tmp_path, None)


def test_a_registry_without_it_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="other could not be fetched"):
        npm_archive.fetch("other", "1.0", tmp_path, None)
