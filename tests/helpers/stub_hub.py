"""A model hub on loopback.

Repositories of files, every request written down, connections that break on demand.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest


@dataclass
class Hub:
    """What the stub has and what it was asked.

    files:    by repository and revision: name → bytes
    asked:    (method, file or API path, Range header or "") in order
    break_at: bytes of a file after which its connection breaks, every time
    holes:    bytes of nothing after those of a file, in place of the weights after a header
    leaked:   bytes of holes that were sent
    sent:     bytes of files that were sent, these included
    """

    files: dict[tuple[str, str], dict[str, bytes]] = field(default_factory=dict)
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    break_at: dict[str, int] = field(default_factory=dict)
    holes: dict[str, int] = field(default_factory=dict)
    leaked: int = 0
    sent: int = 0
    url: str = ""

    def add(self, repo: str, folder: Path, revision: str = "main", **extra: bytes) -> None:
        self.files[repo, revision] = {
            p.name: p.read_bytes() for p in sorted(folder.iterdir())
        } | extra

    def fetched(self, name: str) -> list[str]:
        """Ranges of the GET requests for one file; "" is all of it."""
        return [r for method, what, r in self.asked if method == "GET" and what == name]

    def commit(self, repo: str, revision: str) -> str:
        return hashlib.sha1(f"{repo}@{revision}".encode()).hexdigest()

    def revision(self, repo: str, wanted: str) -> dict[str, bytes] | None:
        for (name, revision), files in self.files.items():
            if name == repo and wanted in (revision, self.commit(repo, revision)):
                return files
        return None


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub that runs until the end of the block."""
    hub = Hub()
    handler = type("Handler", (Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def use(hub: Hub, cache: Path, patch: pytest.MonkeyPatch) -> None:
    """Make huggingface_hub in this process ask the stub, and keep files in `cache`."""
    from huggingface_hub import constants

    patch.setenv("HF_ENDPOINT", hub.url)
    patch.setattr(constants, "ENDPOINT", hub.url)
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    patch.setattr(constants, "HF_HUB_CACHE", str(cache))
    patch.setattr(constants, "HF_HUB_DISABLE_XET", True)


class Handler(BaseHTTPRequestHandler):
    """Answers as the hub does."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        path = self.path.split("?")[0]
        asked = self.headers.get("Range") or ""
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            self.hub.asked.append((self.command, "api", ""))
            self._info(found[1], found[2] or "main")
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self.hub.asked.append((self.command, found[3], asked))
            self._file(found[1], found[2], found[3], asked, body)
        else:
            self._refuse("RepoNotFound")

    def _info(self, repo: str, revision: str) -> None:
        files = self.hub.revision(repo, revision)
        if files is None:
            known = any(name == repo for name, _ in self.hub.files)
            return self._refuse("RevisionNotFound" if known else "RepoNotFound")
        name = next(
            r for n, r in self.hub.files if n == repo and revision in (r, self.hub.commit(repo, r))
        )
        siblings = [
            {"rfilename": n, "size": len(d) + self.hub.holes.get(n, 0), "blobId": "0"}
            for n, d in files.items()
        ]
        data = json.dumps(
            {"id": repo, "sha": self.hub.commit(repo, name), "siblings": siblings}
        ).encode()
        self.send(200, data, {"Content-Type": "application/json"})

    def _file(self, repo: str, revision: str, name: str, asked: str, body: bool) -> None:
        files = self.hub.revision(repo, revision)
        if files is None or name not in files:
            return self._refuse("EntryNotFound")
        data, status = files[name], 200
        commit = next(
            self.hub.commit(n, r) for n, r in self.hub.files if self.hub.files[n, r] is files
        )
        headers = {
            "ETag": f'"{hashlib.sha256(data).hexdigest()}"',
            "X-Repo-Commit": commit,
            "Accept-Ranges": "bytes",
        }
        start, whole = 0, len(data) + self.hub.holes.get(name, 0)
        if asked:
            first, last = asked.removeprefix("bytes=").split("-")
            start, end = int(first), min(int(last or whole), whole - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{whole}"
            stored, status = data[start : end + 1], 206
            data = stored + bytes(end + 1 - start - len(stored))
            self.hub.leaked += len(data) - len(stored)
        elif whole > len(data):  # all of it was asked for
            self.hub.leaked += whole - len(data)
        if body:
            self.hub.sent += len(data)
        limit = self.hub.break_at.get(name)
        if body and limit is not None and start + len(data) > limit:
            self.send(status, data[: max(0, limit - start)], headers, promised=len(data))
            self.close_connection = True
            return
        self.send(status, data if body else b"", headers, promised=len(data))

    def _refuse(self, code: str) -> None:
        self.send(404, b"{}", {"X-Error-Code": code, "X-Error-Message": code})

    def send(
        self, status: int, data: bytes, headers: dict[str, str], promised: int | None = None
    ) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data) if promised is None else promised))
        self.end_headers()
        self.wfile.write(data)
