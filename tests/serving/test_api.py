"""The gateway as clients see it: the official client, keys and limits, an engine that dies."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest
from helpers.gateway_process import MESSAGES, Running, kanna, start, stop


@pytest.fixture(scope="module")
def server(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    state = tmp_path_factory.mktemp("state")
    options = ["--alias", "other", "--audit", str(state / "audit.jsonl"), "--max-tokens", "64"]
    running = start(smollm2, state, *options)
    yield running
    stop(running)


def test_chat(server: Running) -> None:
    answer = server.client().chat.completions.create(
        model="small", messages=MESSAGES, max_tokens=8, temperature=0
    )
    assert answer.model == "small"
    assert answer.choices[0].message.content
    assert answer.usage and 0 < answer.usage.completion_tokens <= 8


def test_a_stream_says_the_same_and_its_usage_only_when_asked(server: Running) -> None:
    client = server.client()
    whole = client.chat.completions.create(
        model="other", messages=MESSAGES, max_tokens=8, temperature=0
    )
    text, usages = "", list[Any]()
    for chunk in client.chat.completions.create(
        model="small", messages=MESSAGES, max_tokens=8, temperature=0, stream=True
    ):
        text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
        usages.append(chunk.usage)
    assert text == whole.choices[0].message.content
    assert not any(usages)
    *_, last = client.chat.completions.create(
        model="small",
        messages=MESSAGES,
        max_tokens=8,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    assert last.usage == whole.usage


def test_completion_with_stop_and_seed(server: Running) -> None:
    ask: Any = {
        "model": "small",
        "prompt": "1, 2, 3, 4,",
        "max_tokens": 12,
        "temperature": 0.8,
        "seed": 7,
    }
    first, again = (server.client().completions.create(**ask).choices[0].text for _ in range(2))
    assert first == again
    cut = server.client().completions.create(**ask | {"temperature": 0, "stop": [","]}).choices[0]
    assert "," not in cut.text and cut.finish_reason == "stop"


def test_an_answer_follows_a_schema(server: Running) -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}},
        "required": ["n"],
        "additionalProperties": False,
    }
    answer = server.client().chat.completions.create(
        model="small",
        messages=MESSAGES,
        max_tokens=40,
        temperature=0,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "x", "schema": schema, "strict": True},
        },
    )
    assert isinstance(json.loads(answer.choices[0].message.content or "")["n"], int)


def test_embeddings_and_tokens(server: Running) -> None:
    vectors = (
        server.client()
        .embeddings.create(model="small", input=["a", "b"], encoding_format="float")
        .data
    )
    assert len(vectors) == 2 and len(vectors[0].embedding) == 576
    status, text = server.post(
        "/tokenize", json.dumps({"model": "small", "content": "hello"}).encode()
    )
    assert status == 200
    tokens = json.loads(text)["tokens"]
    status, text = server.post(
        "/detokenize", json.dumps({"model": "small", "tokens": tokens}).encode()
    )
    assert (status, json.loads(text)["content"]) == (200, "hello")


@pytest.mark.parametrize(
    ("change", "status", "says"),
    [
        ({"model": "nowhere"}, 404, "no model named"),
        ({"messages": []}, 400, "messages"),
        ({"messages": "hi"}, 400, "messages"),
        ({"messages": [{"role": "king", "content": "hi"}]}, 400, "messages.0.role"),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"max_tokens": 65}, 400, "at most 64"),
        ({"temperature": "hot"}, 400, "temperature"),
        ({"n": 17}, 400, "n:"),
        ({"messages": [{"role": "user", "content": "long " * 2000}]}, 400, ""),
    ],
)
def test_what_is_wrong_is_said_in_openais_shape(
    server: Running, change: dict[str, Any], status: int, says: str
) -> None:
    body = {"model": "small", "messages": MESSAGES, "max_tokens": 4} | change
    got, text = server.post("/v1/chat/completions", json.dumps(body).encode())
    assert got == status, text
    assert says in json.loads(text)["error"]["message"]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[1]", b"null", b'{"model": "small"}', b"\xff\xfe", b"[" * 100_000]
)
def test_bodies_that_are_no_request(server: Running, body: bytes) -> None:
    status, text = server.post("/v1/chat/completions", body)
    assert status == 400 and json.loads(text)["error"]["type"] == "invalid_request_error"


def test_a_large_body_is_refused(server: Running) -> None:
    try:
        status, _ = server.post("/v1/chat/completions", b" " * (9 << 20))
        assert status == 413
    except urllib.error.URLError:
        pass  # the connection was closed before all of it was sent
    assert server.get("/health")[0] == 200


def test_the_page_is_there_and_lets_nothing_else_in(server: Running) -> None:
    with urllib.request.urlopen(server.url + "/") as answer:
        assert "<title>" in answer.read().decode()
        assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert server.get("/page/app.js")[0] == 200
    assert server.get("/page/../app.py")[0] == 404
    assert server.get("/admin/keys")[0] == 401


def test_nothing_elsewhere(server: Running) -> None:
    status, text = server.get("/v1/nothing")
    assert status == 404 and "error" in json.loads(text)


def test_metrics_and_audit(server: Running) -> None:
    server.client().chat.completions.create(model="small", messages=MESSAGES, max_tokens=2)
    status, text = server.get("/metrics")
    assert status == 200
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if line and line[0] != "#")
    assert float(values['kanna_requests_total{key="anyone",model="small"}']) >= 1
    assert float(values['kanna_memory_bytes{model="small"}']) > 50e6
    assert float(values['kanna_tokens_total{key="anyone",kind="completion",model="small"}']) >= 2
    lines = [json.loads(line) for line in (server.state / "audit.jsonl").read_text().splitlines()]
    assert lines[-1] | {"time": ""} == {
        "time": "",
        "key": "anyone",
        "model": "small",
        "status": 200,
        "prompt_tokens": lines[-1]["prompt_tokens"],
        "completion_tokens": 2,
    }
    assert "hello" not in (server.state / "audit.jsonl").read_text()


def engine_of(running: Running) -> psutil.Process:
    status, text = running.get("/status")
    assert status == 200
    return psutil.Process(json.loads(text)[0]["pid"])


def test_an_engine_that_dies_is_replaced(server: Running) -> None:
    client = server.client()
    engine = engine_of(server)
    stream = client.chat.completions.create(
        model="small", messages=MESSAGES, max_tokens=64, stream=True
    )
    next(iter(stream))
    os.kill(engine.pid, signal.SIGKILL)
    with pytest.raises(openai.APIError, match="can be sent again"):
        for _ in stream:
            pass
    end = time.monotonic() + 30
    while True:
        try:
            assert client.chat.completions.create(
                model="small", messages=MESSAGES, max_tokens=2
            ).choices
            break
        except openai.InternalServerError as error:
            assert error.status_code == 503 and time.monotonic() < end
            time.sleep(0.1)
    assert engine_of(server).pid != engine.pid


def test_a_client_that_leaves_frees_its_slot(server: Running) -> None:
    for _ in range(4):  # more than there are slots
        stream = server.client().chat.completions.create(
            model="small", messages=MESSAGES, max_tokens=64, stream=True
        )
        next(iter(stream))
        stream.close()
    assert (
        server.client(timeout=20)
        .chat.completions.create(model="small", messages=MESSAGES, max_tokens=2)
        .choices
    )


def test_keys(smollm2: Path, tmp_path: Path) -> None:
    run = kanna("serve", smollm2, "--keys", state=tmp_path)
    assert run.returncode == 2 and "kanna keys create" in run.stderr

    def make(name: str, *options: object) -> str:
        done = kanna("keys", "create", "--name", name, *options, "--json", state=tmp_path)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)["key"]

    good, few = make("good"), make("few", "--requests-per-minute", 1)
    watcher, elsewhere = (
        make("watcher", "--scope", "metrics"),
        make("elsewhere", "--model", "another"),
    )
    secret = max(good.split("-"), key=len)  # which may have a dash itself
    assert secret.encode() not in b"".join(p.read_bytes() for p in tmp_path.iterdir()), (
        "only a hash is stored"
    )
    running = start(smollm2, tmp_path, "--keys")
    try:
        ask: Any = {"model": "small", "messages": MESSAGES, "max_tokens": 2}
        assert running.client(good).chat.completions.create(**ask).usage
        for wrong in ("", "kanna-x", good[:-1], good + "x", good.replace("kanna", "other")):
            assert running.post("/v1/chat/completions", json.dumps(ask).encode(), wrong)[0] == 401
        assert running.get("/metrics", watcher)[0] == 200
        assert running.get("/metrics", good)[0] == 403
        with pytest.raises(openai.PermissionDeniedError):
            running.client(watcher).chat.completions.create(**ask)
        with pytest.raises(openai.PermissionDeniedError):
            running.client(elsewhere).chat.completions.create(**ask)
        assert running.client(few).chat.completions.create(**ask).usage
        with pytest.raises(openai.RateLimitError) as caught:
            running.client(few).chat.completions.create(**ask)
        assert 1 <= int(caught.value.response.headers["retry-after"]) <= 60
        admin = make("admin", "--scope", "admin")
        listed = {k["name"]: k for k in json.loads(running.get("/admin/keys", admin)[1])["keys"]}
        assert listed["good"]["usage"]["requests"] == 1 and listed["good"]["usage"]["tokens"] > 2
        assert running.get("/admin/keys", good)[0] == 403
        body = json.dumps({"name": "made", "scopes": ["infer"], "tokens_per_day": 5}).encode()
        status, text = running.post("/admin/keys", body, admin)
        assert status == 201 and running.client(json.loads(text)["key"]).models.list().data
        assert running.post("/admin/keys", b'{"name": "", "scopes": ["all"]}', admin)[0] == 400
        assert kanna("keys", "revoke", "good", state=tmp_path).returncode == 0
        with pytest.raises(openai.AuthenticationError):
            running.client(good).chat.completions.create(**ask)
    finally:
        stop(running)
    listed = json.loads(kanna("keys", "list", "--json", state=tmp_path).stdout)["keys"]
    assert [k["name"] for k in listed if k["revoked"]] == ["good"]


def test_other_addresses_need_keys(smollm2: Path, tmp_path: Path) -> None:
    run = kanna("serve", smollm2, "--host", "0.0.0.0", state=tmp_path)
    assert run.returncode == 2 and "not a loopback address" in run.stderr


def test_a_gateway_may_wait_for_its_first_key(tiny_gguf: Path, tmp_path: Path) -> None:
    running = start(tiny_gguf, tmp_path, "--keys", "--wait-for-key")
    try:
        assert running.get("/health")[0] == 200 and running.get("/v1/models")[0] == 401
        made = kanna("keys", "create", "--name", "first", "--json", state=tmp_path)
        assert running.get("/v1/models", json.loads(made.stdout)["key"])[0] == 200
    finally:
        stop(running)


@pytest.mark.parametrize("models", [["absent.gguf"], ["a=absent.gguf"]])
def test_what_cannot_be_served_is_said(models: list[str], tmp_path: Path) -> None:
    run = kanna("serve", *models, state=tmp_path)
    assert run.returncode == 2 and "does not exist" in run.stderr
