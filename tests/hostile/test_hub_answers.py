"""A hub that lies, as a mirror may: nothing is written elsewhere, nothing goes on without end."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from helpers import stub_hub

from kanna.errors import KannaError, SourceError
from kanna.sources import hub, hub_answers

REPO = "owner/tiny"
_ENDLESS = 20 << 20  # bytes after which the stub gives up; a test that gets there has failed


class Lies:
    """What the stub says in place of the truth: headers by name, and files that do not end."""

    def __init__(self, served: stub_hub.Hub) -> None:
        self.hub = served
        self.headers: dict[str, str] = {}
        self.endless = ""
        self.num_sent = 0


@pytest.fixture
def lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lies]:
    with stub_hub.serving() as served:
        told = Lies(served)
        send = stub_hub.Handler.send

        def lie(
            self: Any,
            status: int,
            data: bytes,
            headers: dict[str, str],
            promised: int | None = None,
        ) -> None:
            if "ETag" in headers:
                headers |= told.headers
            if not (told.endless and self.path.endswith(told.endless)) or not data:
                return send(self, status, data, headers, promised)
            BaseHTTPRequestHandler.send_response(self, 200)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(1 << 40))
            self.end_headers()
            try:
                while told.num_sent < _ENDLESS:
                    self.wfile.write(bytes(1 << 16))
                    told.num_sent += 1 << 16
            except OSError:  # who asked has left
                pass
            self.close_connection = True
            return None

        monkeypatch.setattr(stub_hub.Handler, "send", lie)
        served.files[REPO, "main"] = {
            "config.json": b"{}",
            "model.safetensors": b"\x02" + bytes(7) + b"{}",
        }
        stub_hub.use(served, tmp_path / "cache" / "hub", monkeypatch)
        yield told


@pytest.mark.parametrize(
    "name", ["../x.safetensors", "/etc/x.json", "LICENSE/../../../x", "a\\..\\x.json", "a\0b.json"]
)
def test_a_file_that_lies_outside_is_refused(lies: Lies, name: str) -> None:
    lies.hub.files[REPO, "main"][name] = b"x"
    with pytest.raises(SourceError, match="inside the repository"):
        hub.look_up(REPO, None)


@pytest.mark.parametrize("commit", ["../../x", "a/../../b", "/etc", "a b", ".."])
def test_a_commit_that_is_a_path_is_refused(commit: str) -> None:
    with pytest.raises(SourceError, match="hexadecimal"):
        hub_answers.check_names(REPO, ["config.json"], commit)


@pytest.mark.parametrize("header", ["ETag", "X-Linked-Etag", "X-Repo-Commit"])
@pytest.mark.parametrize(
    "value", ['"../../../../left"', '"/etc/x"', "..", '"a\\b"', '"' + "a" * 300]
)
def test_no_header_names_a_file_outside_the_cache(
    lies: Lies, tmp_path: Path, header: str, value: str
) -> None:
    repository = hub.look_up(REPO, None)
    lies.headers = {header: value}
    with pytest.raises(KannaError):
        hub.fetch(repository, ["config.json"])
    assert [p.name for p in tmp_path.iterdir()] in ([], ["cache"])
    assert not [p for p in (tmp_path / "cache").rglob("left*") if p.is_file()]


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_file_without_end_is_left(lies: Lies, name: str) -> None:
    repository = hub.look_up(REPO, None)
    lies.endless = name
    with pytest.raises(SourceError):
        hub.fetch(repository, [name])
    assert lies.num_sent < _ENDLESS


def test_of_an_endless_answer_only_the_part_is_read(lies: Lies) -> None:
    repository = hub.look_up(REPO, None)
    lies.endless = "model.safetensors"
    assert hub.read_range(repository, "model.safetensors", 5, 100) == bytes(100)
    assert lies.num_sent < _ENDLESS


@pytest.mark.parametrize(("skipped", "size"), [(0, 5), (3, 4), (7, 100), (100, 5), (2, 0)])
def test_a_part_is_the_same_however_it_comes(skipped: int, size: int) -> None:
    whole = bytes(range(20))
    for width in (1, 3, 7, 20):
        pieces = [whole[at : at + width] for at in range(0, 20, width)]
        assert hub_answers.part(pieces, skipped, size) == whole[skipped : skipped + size]
