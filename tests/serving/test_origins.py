"""Web pages of others: kept out, and let in when they are named."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.gateways import Local, local

from kanna.errors import UsageError
from kanna.serving.arguments import parse_origin

CHAT = "https://chat.example"
PATH = "/v1/chat/completions"
ASK = {"model": "m", "messages": [{"role": "user", "content": "a"}]}


def ask(
    gateway: Local, method: str, path: str, headers: dict[str, str], body: Any = None
) -> tuple[int, Any, str]:
    """Status, headers and text."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=20)
    try:
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read().decode()
    finally:
        connection.close()


@pytest.fixture(scope="module")
def closed(tiny_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    with local(tiny_gguf, tmp_path_factory.mktemp("closed")) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def shared(tiny_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    with local(
        tiny_gguf, tmp_path_factory.mktemp("shared"), settings={"origins": (CHAT,)}
    ) as gateway:
        yield gateway


@pytest.mark.parametrize("origin", [CHAT, "null", "http://127.0.0.1:1", "http://localhost"])
def test_pages_of_others_may_not_post(closed: Local, origin: str) -> None:
    # A body of plain text is sent by browsers without asking first.
    status, headers, text = ask(
        closed, "POST", PATH, {"origin": origin, "content-type": "text/plain"}, ASK
    )
    assert status == 403 and json.loads(text)["error"]["code"] == "origin_not_allowed"
    assert (
        "access-control-allow-origin" not in headers
        and headers["x-content-type-options"] == "nosniff"
    )
    status, headers, _ = ask(
        closed, "OPTIONS", PATH, {"origin": origin, "access-control-request-method": "POST"}
    )
    assert status == 403 and "access-control-allow-origin" not in headers
    status, headers, _ = ask(closed, "GET", "/v1/models", {"origin": origin})
    assert "access-control-allow-origin" not in headers
    assert 'kanna_refused_total{status="403"}' in closed.pool.metrics.exposition().decode()


def test_our_own_page_and_programs_may(closed: Local) -> None:
    own = f"127.0.0.1:{closed.port}"
    for headers in (
        {"origin": f"http://{own}", "host": own},
        {},
        {"host": f"localhost:{closed.port}"},
        {"host": "[::1]:80"},
        {"host": "my.localhost"},
    ):
        assert ask(closed, "POST", PATH, headers, ASK)[0] == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "10.0.0.1", "[::2]"]
)
def test_a_name_that_was_made_to_lead_here_is_no_way_in(closed: Local, host: str) -> None:
    for method, path in (("POST", PATH), ("GET", "/v1/models"), ("GET", "/metrics"), ("GET", "/")):
        status, _, text = ask(
            closed, method, path, {"host": host}, ASK if method == "POST" else None
        )
        assert status == 403 and json.loads(text)["error"]["code"] == "host_not_allowed"
    assert ask(closed, "GET", "/health", {"host": host})[0] == 200, (
        "whoever looks after it may ask by any name"
    )


def test_a_page_that_was_named_may(shared: Local) -> None:
    asked = {
        "origin": CHAT,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
    }
    status, headers, _ = ask(shared, "OPTIONS", PATH, asked)
    assert (
        status == 204
        and headers["access-control-allow-origin"] == CHAT
        and headers["vary"] == "Origin"
    )
    assert headers["access-control-allow-headers"] == "authorization,content-type"
    assert "POST" in headers["access-control-allow-methods"]
    assert "access-control-allow-credentials" not in headers
    for body in (ASK, ASK | {"stream": True}, ASK | {"model": "nobody"}):
        status, headers, _ = ask(shared, "POST", PATH, {"origin": CHAT}, body)
        assert status == (404 if body["model"] == "nobody" else 200)
        assert headers["access-control-allow-origin"] == CHAT
    assert ask(shared, "POST", PATH, {"origin": "https://other.example"}, ASK)[0] == 403


def test_where_keys_are_asked_for_names_do_not_matter(tiny_gguf: Path, tmp_path: Path) -> None:
    with local(tiny_gguf, tmp_path, settings={"keys": True}) as gateway:
        key = gateway.store.create("one")[1]
        headers = {
            "host": "models.example",
            "origin": "https://models.example",
            "authorization": f"Bearer {key}",
        }
        assert ask(gateway, "POST", PATH, headers, ASK)[0] == 200
        assert ask(gateway, "POST", PATH, headers | {"authorization": ""}, ASK)[0] == 401


@pytest.mark.parametrize(
    "given", ["chat.example", "https://chat.example/page", "", "https://", "https://[::1"]
)
def test_what_is_no_origin(given: str) -> None:
    with pytest.raises(UsageError):
        parse_origin(given)


def test_origins_are_written_as_browsers_do() -> None:
    assert [parse_origin(o) for o in ("https://Chat.example/", "http://localhost:3000", "*")] == [
        "https://chat.example",
        "http://localhost:3000",
        "*",
    ]
