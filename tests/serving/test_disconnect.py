"""Clients that leave, stall or dawdle: nothing of them stays, and what they used is counted."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from helpers.gateways import Local, local, until

CHAT, COMPLETE = "/v1/chat/completions", "/v1/completions"
MESSAGES: Any = [{"role": "user", "content": "five!"}]


@pytest.fixture(scope="module")
def gateway(tiny_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    limits = {
        "queue": 2,
        "header_time": 1.0,
        "request_time": 2.0,
        "idle_time": 1.0,
        "stall_time": 1.0,
    }
    with local(tiny_gguf, tmp_path_factory.mktemp("gateway"), **limits) as running:
        yield running


def new_entry(gateway: Local, before: int) -> dict[str, Any]:
    until(lambda: len(gateway.log()) > before)
    return gateway.log()[before]


@pytest.mark.parametrize("path", [CHAT, COMPLETE])
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("prompts", [1, 2])
def test_a_client_that_leaves_before_the_first_word(
    gateway: Local, path: str, stream: bool, prompts: int
) -> None:
    """The slot comes back at once, the engine stops, and the prompt is counted."""
    before, seen = len(gateway.log()), gateway.engine()
    what: dict[str, Any] = {"prompt": "five!"} if path == COMPLETE else {"messages": MESSAGES}
    body = {**what, "stream": stream, "n": prompts, "replay": {"wait": 1.5}}
    connection = gateway.open(path, body)
    until(lambda: gateway.engine()["begun"] == seen["begun"] + prompts)
    connection.close()
    until(lambda: gateway.inside == 0, 1.0)
    entry = new_entry(gateway, before)
    assert (entry["status"], entry["prompt_tokens"], entry["completion_tokens"]) == (499, 5, 0)
    until(lambda: gateway.engine()["cancelled"] == seen["cancelled"] + prompts)


def test_a_client_that_leaves_just_as_the_answer_begins(gateway: Local) -> None:
    """Between the engine's head and the first event nobody iterates the stream yet."""
    before = len(gateway.log())
    for i in range(30):
        connection = gateway.open(
            CHAT, {"messages": MESSAGES, "stream": True, "replay": {"tokens": 3, "wait": 0.004}}
        )
        time.sleep(0.002 + i * 0.0002)
        connection.close()
    until(lambda: gateway.inside == 0)
    until(lambda: len(gateway.log()) == before + 30)


def test_a_client_that_leaves_in_the_middle_is_counted_by_the_token(gateway: Local) -> None:
    before = len(gateway.log())
    connection = gateway.open(
        CHAT, {"messages": MESSAGES, "stream": True, "replay": {"tokens": 100, "gap": 0.02}}
    )
    got = b""
    while got.count(b"data: {") < 6:
        got += connection.recv(4096)
    connection.close()
    entry = new_entry(gateway, before)
    assert entry["status"] == 499 and entry["prompt_tokens"] == 5
    assert 5 <= entry["completion_tokens"] <= 20
    assert gateway.inside == 0


def test_a_client_that_leaves_the_queue_is_forgotten(gateway: Local) -> None:
    width = 2 * 2
    held = [gateway.open(COMPLETE, {"prompt": "a", "replay": {"wait": 1.0}}) for _ in range(width)]
    until(lambda: gateway.inside == width)
    seen = gateway.engine()["begun"]
    waiting = gateway.open(COMPLETE, {"prompt": "a"})
    backend = gateway.pool.find("m").backend
    assert backend
    until(lambda: backend.admission.waiting == 1)
    waiting.close()
    until(lambda: backend.admission.waiting == 0, 0.5)
    assert gateway.engine()["begun"] == seen
    for connection in held:
        connection.close()
    until(lambda: gateway.inside == 0)


def test_a_full_queue_is_said_with_when_to_come_back(gateway: Local) -> None:
    held = [gateway.open(COMPLETE, {"prompt": "a", "replay": {"wait": 0.8}}) for _ in range(4 + 2)]
    backend = gateway.pool.find("m").backend
    assert backend
    until(lambda: backend.admission.waiting == 2)
    connection = gateway.open(COMPLETE, {"prompt": "a"})
    text = connection.recv(65536).decode()
    assert text.startswith("HTTP/1.1 503") and "retry-after: " in text and "queue_full" in text
    for other in held:
        assert other.recv(65536).startswith(b"HTTP/1.1 200"), "those who wait are answered"
        other.close()
    connection.close()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"messages": MESSAGES, "replay": {"wait": 9}}),
        (COMPLETE, {"prompt": "a", "replay": {"wait": 9}}),
        (COMPLETE, {"prompt": "a", "stream": True, "replay": {"wait": 9}}),
        ("/v1/embeddings", {"input": "a", "replay": {"wait": 9}}),
    ],
)
def test_an_answer_that_takes_too_long_ends(
    gateway: Local, path: str, body: dict[str, Any]
) -> None:
    before = len(gateway.log())
    begun = time.monotonic()
    status, answer = gateway.post(path, body)
    assert status == 504 and answer["error"]["code"] == "timeout"
    assert 1.5 < time.monotonic() - begun < 6
    assert new_entry(gateway, before)["status"] == 504
    assert gateway.inside == 0


@pytest.mark.parametrize(
    ("replay", "says"),
    [({"tokens": 3, "gap": 5}, "nothing moved"), ({"tokens": 99, "gap": 0.1}, "longer than 2")],
)
def test_a_stream_that_stands_still_or_never_ends(
    gateway: Local, replay: dict[str, Any], says: str
) -> None:
    before = len(gateway.log())
    connection = gateway.open(CHAT, {"messages": MESSAGES, "stream": True, "replay": replay})
    got = b""
    while b"\r\n0\r\n" not in got:
        got += connection.recv(65536)
    assert says.encode() in got and got.count(b'"error"') == 1
    entry = new_entry(gateway, before)
    assert entry["status"] == 504 and entry["completion_tokens"] >= 1
    assert gateway.inside == 0
    connection.close()


def test_a_reader_that_stalls_loses_its_connection(gateway: Local) -> None:
    """Events of 1 MB fill every buffer between.

    The reader that takes none is cut off, its slot is free again.
    """
    before = len(gateway.log())
    body = {"messages": MESSAGES, "stream": True, "replay": {"tokens": 40, "size": 1 << 20}}
    connection = gateway.open(CHAT, body)
    time.sleep(0.3)
    assert gateway.inside == 1
    until(lambda: gateway.inside == 0, 2.5)
    assert new_entry(gateway, before)["status"] in {499, 504}
    with pytest.raises(OSError):
        while connection.recv(1 << 20):
            pass
        raise ConnectionResetError  # closed in order, which is as good
    connection.close()


def test_a_slow_reader_gets_everything(gateway: Local) -> None:
    body = {"messages": MESSAGES, "stream": True, "replay": {"tokens": 6, "size": 1 << 20}}
    connection = gateway.open(CHAT, body)
    total, last = 0, b""
    while b"\r\n0\r\n" not in last[-32:]:
        part = connection.recv(1 << 18)
        total, last = total + len(part), last[-32:] + part
        time.sleep(0.01)
    assert total > 6 << 20
    connection.close()


def test_a_client_that_leaves_within_its_request_is_no_failure(
    gateway: Local, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as connection:
            connection.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
                b"content-length: 100\r\n\r\n{"
            )
            time.sleep(0.05)
    time.sleep(0.2)
    assert not [r for r in caplog.records if r.levelname == "ERROR"]


def test_requests_that_never_arrive_whole(gateway: Local) -> None:
    """Slowloris: heads and bodies that dribble in are cut off."""
    for start in (b"POST /v1/chat", b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"):
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as connection:
            connection.sendall(start)
            begun = time.monotonic()
            assert _closed(connection)
            assert 0.5 < time.monotonic() - begun < 4
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{"
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as connection:
        connection.sendall(head)
        assert connection.recv(65536).startswith(b"HTTP/1.1 408")
        dribble = threading.Thread(target=_dribble, args=(connection,), daemon=True)
        dribble.start()
        assert _closed(connection)
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as connection:
        for i in range(3000):
            try:
                connection.sendall(
                    b"GET / HTTP/1.1\r\n" if i == 0 else b"x-%d: %s\r\n" % (i, b"y" * 64)
                )
            except OSError:
                break
        assert _closed(connection)


def _dribble(connection: socket.socket) -> None:
    try:
        for _ in range(50):
            connection.sendall(b" ")
            time.sleep(0.2)
    except OSError:
        pass


def _closed(connection: socket.socket) -> bool:
    try:
        while connection.recv(65536):
            pass
    except ConnectionError:
        pass
    return True


def test_more_connections_than_allowed(tiny_gguf: Path, tmp_path: Path) -> None:
    with local(tiny_gguf, tmp_path, connections=20) as gateway:
        many = [
            socket.create_connection(("127.0.0.1", gateway.port), timeout=10) for _ in range(20)
        ]
        time.sleep(0.2)
        one = gateway.open(COMPLETE, {"prompt": "a"})
        assert one.recv(4096).startswith(b"HTTP/1.1 503")
        for connection in [*many, one]:
            connection.close()
        until(lambda: gateway.post(COMPLETE, {"prompt": "a"})[0] == 200)


def test_tools_and_their_calls_pass_untouched(gateway: Local) -> None:
    tools = [
        {
            "type": "function",
            "function": {"name": "weather", "parameters": {"type": "object", "x": ["é", 1e-7]}},
        }
    ]
    function = {"name": "weather", "arguments": '{"city": "Kobe"}'}
    call = {"index": 0, "id": "c1", "type": "function", "function": function}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    history = [*MESSAGES, message, {"role": "tool", "tool_call_id": "c1", "content": "rain"}]
    body = {
        "messages": history,
        "tools": tools,
        "tool_choice": "required",
        "parallel_tool_calls": True,
        "replay": {"tokens": 1, "message": message},
    }
    status, answer = gateway.post(CHAT, body)
    assert status == 200 and answer["choices"][0]["message"] == message
    sent = gateway.engine()["bodies"][-1]
    # A call that has to be made is a schema here: the rest is the engine's own.
    assert {k: sent[k] for k in body} == body | {"tool_choice": "auto"}
    assert sent["response_format"]["type"] == "json_schema"
    client = openai.OpenAI(base_url=gateway.url + "/v1", api_key="none", max_retries=0)
    ask: Any = {
        "model": "m",
        "messages": history,
        "tools": tools,
        "n": 2,
        "extra_body": {"replay": body["replay"]},
    }
    for count in (1, 2):
        calls = [
            c.delta.tool_calls
            for chunk in client.chat.completions.create(**ask | {"n": count}, stream=True)
            for c in chunk.choices
            if c.delta.tool_calls
        ]
        assert [c[0].function.arguments for c in calls if c and c[0].function] == [
            '{"city": "Kobe"}'
        ] * count


def test_a_stream_whose_engine_breaks_off_says_so(gateway: Local) -> None:
    replay = {"tokens": 9, "cut": 4, "gap": 0.01}
    connection = gateway.open(CHAT, {"messages": MESSAGES, "stream": True, "replay": replay})
    got = b""
    while b"\r\n0\r\n" not in got:
        got += connection.recv(65536)
    events = [json.loads(line[6:]) for line in got.split(b"\n") if line.startswith(b"data: {")]
    assert events[-1]["error"]["code"] == "engine_restarting"
    connection.close()
