"""A model hub on loopback.

Repositories of files, every request written down, connections that break on demand.
"""

from __future__ import annotations

import base64
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

    Uploads are taken as huggingface_hub sends them: preupload, LFS batch, PUT and commit. This is a
    stub: what the hub itself would refuse is not known here.

    files:    by repository and revision: name → bytes
    objects:  large files by SHA-256, as they were put
    private:  repositories that were made so
    refuses:  parts of paths that are answered with 403
    tokens:   Authorization headers of what was written
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
    objects: dict[str, bytes] = field(default_factory=dict)
    private: list[str] = field(default_factory=list)
    refuses: list[str] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
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

    def do_POST(self) -> None:
        path = self.path.split("?")[0]
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.asked.append(("POST", path, ""))
        self.hub.tokens.add(self.headers.get("Authorization") or "")
        if any(part in path for part in self.hub.refuses):
            self.send(403, b'{"error": "you may not"}', {"Content-Type": "application/json"})
        elif path == "/api/repos/create":
            self._create(json.loads(data))
        elif path == "/api/validate-yaml":
            self._say({"errors": [], "warnings": []})
        elif found := re.fullmatch(r"/api/models/(.+)/branch/(.+)", path):
            self.hub.files.setdefault((found[1], found[2]), {})
            self._say({})
        elif re.fullmatch(r"/api/models/.+/preupload/.+", path):
            kinds = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(".gguf") else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(data)["files"]
            ]
            self._say({"files": kinds})
        elif path.endswith("/info/lfs/objects/batch"):
            self._say(
                {
                    "transfer": "basic",
                    "objects": list(map(self._object, json.loads(data)["objects"])),
                }
            )
        elif found := re.fullmatch(r"/api/models/(.+)/commit/(.+)", path):
            self._commit(found[1], found[2], data)
        else:
            self._refuse("EntryNotFound")

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.asked.append(("PUT", self.path, ""))
        digest = self.path.rsplit("/", 1)[1]
        right = hashlib.sha256(data).hexdigest() == digest
        if right:
            self.hub.objects[digest] = data
        self.send(200 if right else 400, b"", {})

    def _say(self, value: object) -> None:
        self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _create(self, asked: dict[str, object]) -> None:
        owner = f"{asked['organization']}/" if asked.get("organization") else ""
        repo = f"{owner}{asked['name']}"
        if (repo, "main") in self.hub.files:
            there = json.dumps({"url": f"{self.hub.url}/{repo}", "error": "it is there"}).encode()
            self.send(409, there, {"Content-Type": "application/json"})
            return
        self.hub.files[repo, "main"] = {}
        if asked.get("private") or asked.get("visibility") == "private":
            self.hub.private.append(repo)
        self._say({"url": f"{self.hub.url}/{repo}", "name": repo, "id": repo})

    def _object(self, asked: dict[str, object]) -> dict[str, object]:
        """What a large file needs: nothing where it is here."""
        if asked["oid"] in self.hub.objects:
            return asked
        put = {"href": f"{self.hub.url}/put/{asked['oid']}"}
        return asked | {"actions": {"upload": put}}

    def _commit(self, repo: str, revision: str, data: bytes) -> None:
        files = self.hub.files[repo, revision]
        for line in map(json.loads, data.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
        oid = self.hub.commit(repo, revision)
        url = f"{self.hub.url}/{repo}/commit/{oid}"
        self._say({"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": ""})

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
