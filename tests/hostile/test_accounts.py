"""Accounts add up: at once, after a clock was set back, with a file that cannot be written."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import disturbances, engine_artefacts
from helpers.gateways import Local, local, until
from helpers.honest_clients import Outcome, ask

from kanna.errors import KannaError
from kanna.serving import key_management
from kanna.serving.guard import keyring
from kanna.serving.guard.audit import AuditLog
from kanna.serving.guard.keyring import KeyRing
from kanna.serving.guard.keys import ApiKey, KeyUsage, today
from kanna.serving.guard.ledger import Ledger
from kanna.serving.guard.limits import RateLimiter, SteadyClock
from kanna.serving.guard.store import KeyStore
from kanna.serving.problems import ApiError

CHAT = "/v1/chat/completions"
HOUR, DAY = 3600.0, 86_400.0


def _key(**limits: int) -> ApiKey:
    return replace(ApiKey(id="a", name="a", scopes=("infer",), created=0), **limits)


def _none_used(_: int) -> dict[str, int]:
    return {}


def _refused(action: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        action()
    assert caught.value.status == 429
    assert caught.value.retry_after
    return caught.value


# Clocks


@pytest.mark.parametrize("back", [1.0, HOUR, DAY, 400 * DAY])
@pytest.mark.parametrize("limit", ["requests_per_minute", "tokens_per_minute", "tokens_per_day"])
def test_a_clock_that_is_set_back_refuses_nobody(limit: str, back: float) -> None:
    now = [1.8e9]
    limiter, key = RateLimiter(_none_used, lambda: now[0]), _key(**{limit: 60})
    limiter.admit(key)
    limiter.settle(limiter.reserve(key, 30), 30)
    now[0] -= back
    for _ in range(3):
        limiter.admit(key)


@pytest.mark.parametrize("back", [1.0, HOUR, DAY])
def test_a_clock_that_is_set_back_gives_no_quota_twice(back: float) -> None:
    now = [1.8e9]
    limiter, key = RateLimiter(_none_used, lambda: now[0]), _key(tokens_per_day=60)
    limiter.settle(limiter.reserve(key, 60), 60)
    now[0] -= back
    _refused(lambda: limiter.admit(key))


def test_the_machine_s_clock_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SteadyClock()
    before = clock.now()
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert before <= clock.now() < before + 60


# Reservations


def test_two_at_once_do_not_pass_a_quota_with_room_for_one() -> None:
    for limits in ({"tokens_per_day": 100}, {"tokens_per_minute": 100}):
        limiter, key = RateLimiter(_none_used, lambda: 1.8e9), _key(**limits)
        limiter.admit(key)
        first = limiter.reserve(key, 80)
        _refused(lambda key=key, limiter=limiter: limiter.reserve(key, 80))
        second = limiter.reserve(key, 20)
        limiter.settle(first, 10)
        limiter.settle(second, 5)
        limiter.settle(limiter.reserve(key, 80), 80)  # what was not used is there again


def test_the_last_tokens_are_enough_for_one_more_request() -> None:
    limiter, key = RateLimiter(_none_used, lambda: 1.8e9), _key(tokens_per_day=100)
    limiter.settle(limiter.reserve(key, 500), 99)
    limiter.settle(limiter.reserve(key, 500), 300)
    assert _refused(lambda: limiter.admit(key)).code == "insufficient_quota"


def _post(gateway: Local, path: str, key: str, body: dict[str, Any]) -> tuple[int, Any]:
    headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
    data = json.dumps({"model": "m", **body}).encode()
    request = urllib.request.Request(gateway.url + path, data, headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


@pytest.fixture(scope="module")
def gateway(tiny_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    folder = tmp_path_factory.mktemp("accounts")
    with local(tiny_gguf, folder, slots=8, settings={"keys": True}) as running:
        yield running


def test_requests_at_once_reserve_before_they_work(gateway: Local) -> None:
    _, key = gateway.store.create("eager", tokens_per_day=60)
    body = {"prompt": "hi", "max_tokens": 40, "replay": {"tokens": 40, "wait": 0.5}}
    answers: list[int] = []
    threads = [
        threading.Thread(
            target=lambda: answers.append(_post(gateway, "/v1/completions", key, body)[0])
        )
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [200, 429, 429, 429, 429, 429]


@pytest.mark.parametrize("limit", ["tokens_per_day", "tokens_per_minute"])
def test_requests_without_a_number_of_tokens_leave_room_for_others(limit: str) -> None:
    limiter, key = RateLimiter(_none_used, lambda: 1.8e9), _key(**{limit: 20_000})
    assert limiter.share(_key()) is None
    shares: list[int] = []
    for _ in range(6):
        shares.append(limiter.share(key) or 0)
        limiter.reserve(key, shares[-1])
    assert shares[0] == 5000 and shares == sorted(shares, reverse=True)
    assert sum(shares) < 20_000
    assert limiter.share(_key(**{limit: 60})) == 512


def test_a_key_with_a_small_quota_asks_twice_at_once(tiny_gguf: Path, tmp_path: Path) -> None:
    """Neither request says how long its answer may be."""
    settings = {"keys": True, "context": 4096}
    with local(tiny_gguf, tmp_path, settings=settings) as running:
        _, key = running.store.create("small", tokens_per_day=1500)
        body = {"prompt": "hi", "replay": {"tokens": 8, "wait": 0.5}}
        answers: list[tuple[int, Any]] = []
        threads = [
            threading.Thread(
                target=lambda: answers.append(_post(running, "/v1/completions", key, body))
            )
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [status for status, _ in answers] == [200, 200]
        assert {sent["max_tokens"] for sent in running.engine()["bodies"][-2:]} == {512}
        _, unlimited = running.store.create("unlimited")
        assert _post(running, "/v1/completions", unlimited, body)[0] == 200
        assert "max_tokens" not in running.engine()["bodies"][-1]


def test_a_request_that_fails_gives_back_what_it_reserved(gateway: Local) -> None:
    _, key = gateway.store.create("unlucky", tokens_per_day=60)
    refused = {"prompt": ["a", "b"], "n": 16, "max_tokens": 4, "best_of": 99}
    for _ in range(3):
        assert _post(gateway, "/v1/completions", key, refused)[0] == 400
    broken = {"prompt": "hi", "max_tokens": 40, "stream": False, "replay": {"wait": 0}}
    assert _post(gateway, "/v1/completions", key, broken)[0] == 200


@pytest.mark.parametrize(
    ("path", "body", "tokens"),
    [
        ("/tokenize", {"content": "twelve chars"}, 12),
        ("/detokenize", {"tokens": [1, 2, 3]}, 3),
        ("/v1/embeddings", {"input": "a"}, 1),
        ("/v1/completions", {"prompt": "hi", "max_tokens": 3}, 10),
    ],
)
def test_every_route_of_a_model_counts(
    gateway: Local, path: str, body: dict[str, Any], tokens: int
) -> None:
    key, text = gateway.store.create(f"counts {path}")
    assert _post(gateway, path, text, body)[0] == 200
    assert gateway.store.tokens_of_day(today())[key.id] == tokens


# Answers that were left


@pytest.fixture(scope="module")
def engines(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Local]:
    model = engine_artefacts.shared(request.param, tmp_path_factory)
    folder = tmp_path_factory.mktemp(f"left-{request.param}")
    with local(model, folder, replay=False, settings={"context": 2048}) as running:
        yield running


def _generated(engines: Local) -> int:
    """Tokens of the answer under way."""
    request = urllib.request.Request(engines.main.url + "/slots", headers=engines.main.headers)
    with urllib.request.urlopen(request, timeout=5) as answer:
        slots = json.loads(answer.read())
    return max((s["next_token"][0]["n_decoded"] for s in slots if s["is_processing"]), default=0)


@pytest.mark.parametrize("engines", ["gguf", "mlx"], indirect=True)
@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_was_left_is_counted_as_far_as_it_was(engines: Local, stream: bool) -> None:
    before = len(engines.log())
    body = {
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 1900,
        "ignore_eos": True,
        "stream": stream,
    }
    until(lambda: not _generated(engines))
    connection = engines.open(CHAT, body)

    until(lambda: _generated(engines) > 10, 30)
    connection.close()
    until(lambda: len(engines.log()) > before, 20)
    entry = engines.log()[before]
    assert entry["status"] == 499
    assert 10 < entry["completion_tokens"] <= 1900
    assert 0 < entry["prompt_tokens"] < 100


@pytest.mark.parametrize(
    "field",
    [
        "max_tokens",
        "max_completion_tokens",
        "n_predict",
        "max_new_tokens",
        "num_predict",
        "max_tokens_to_sample",
        "max_output_tokens",
    ],
)
def test_a_number_of_new_tokens_has_one_name_for_the_engine(gateway: Local, field: str) -> None:
    _, key = gateway.store.create(f"by {field}")
    status, answer = _post(gateway, "/v1/completions", key, {"prompt": "hi", field: 3})
    assert status == 200
    assert answer["usage"]["completion_tokens"] == 3
    sent = gateway.engine()["bodies"][-1]
    assert sent["max_tokens"] == 3
    assert field == "max_tokens" or field not in sent


# A file of keys that is locked, slow or on a full disk


@contextmanager
def _locked(path: Path) -> Generator[None]:
    """A lock on the whole file, for readers too."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        other.execute("CREATE TABLE IF NOT EXISTS of_another (x)")
        try:
            yield
        finally:
            other.execute("ROLLBACK")


def test_a_locked_file_stops_no_answer_and_no_revocation(gateway: Local) -> None:
    key, text = gateway.store.create("steady")
    revoked, revoked_text = gateway.store.create("leaving")
    _, admin = gateway.store.create("admin", scopes=["admin"])
    body = {"prompt": "hi", "max_tokens": 1}
    for secret in (text, revoked_text):
        assert _post(gateway, "/v1/completions", secret, body)[0] == 200
    assert _get(gateway, "/admin/keys", admin)[0] == 200
    other = sqlite3.connect(gateway.folder / "keys.sqlite", isolation_level=None)
    with closing(other):
        other.execute("BEGIN IMMEDIATE")
        started = time.monotonic()
        for _ in range(3):
            assert _post(gateway, "/v1/completions", text, body)[0] == 200
        assert time.monotonic() - started < 10
        status, answer = _send(gateway, "DELETE", f"/admin/keys/{revoked.id}", admin)
        assert (status, json.loads(answer)["written"]) == (202, False)
        assert _post(gateway, "/v1/completions", revoked_text, body)[0] == 401
        other.execute("ROLLBACK")
    until(lambda: (gateway.store.find(revoked_text) or revoked).revoked is not None, 15)
    assert _post(gateway, "/v1/completions", revoked_text, body)[0] == 401
    until(lambda: gateway.store.tokens_of_day(today())[key.id] == 4 * 8, 10)


def _send(gateway: Local, method: str, path: str, key: str) -> tuple[int, bytes]:
    headers = {"authorization": f"Bearer {key}"}
    request = urllib.request.Request(gateway.url + path, headers=headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def _get(gateway: Local, path: str, key: str) -> tuple[int, bytes]:
    return _send(gateway, "GET", path, key)


def test_a_slow_file_stops_no_key_that_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyring, "_PATIENCE", 0.05)
    store = KeyStore(tmp_path / "keys.sqlite")
    key, text = store.create("known")
    _, unknown = store.create("unknown")

    async def run() -> None:
        ring = KeyRing(store)
        assert await ring.find(text) == key
        read, goes_on = store.look_up, threading.Event()

        def slow(key_id: str) -> Any:
            goes_on.wait(10)
            return read(key_id)

        monkeypatch.setattr(store, "look_up", slow)
        started = time.monotonic()
        for _ in range(20):
            assert await ring.find(text) == key
        assert time.monotonic() - started < 1
        with pytest.raises(ApiError) as caught:
            await ring.find(unknown)
        assert caught.value.status == 503
        assert await ring.find(text + "x") is None  # a wrong secret passes in no case
        monkeypatch.setattr(keyring, "_TRUSTED", 0.0)
        with pytest.raises(ApiError, match="cannot be read"):
            await ring.find(text)
        goes_on.set()
        await asyncio.sleep(0.1)
        assert await ring.find(text) == key
        await ring.close()

    asyncio.run(run())


def test_a_full_disk_keeps_no_revocation_from_holding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(keyring, "_RETRY", 0.05)
    store = KeyStore(tmp_path / "keys.sqlite")
    key, text = store.create("leaving")
    write = store.revoke

    def full(_: str) -> Any:
        raise sqlite3.OperationalError("database or disk is full")

    async def run() -> None:
        ring = KeyRing(store)
        monkeypatch.setattr(store, "revoke", full)
        assert not await ring.revoke(key.id)
        held = await ring.find(text)
        assert held and held.revoked
        assert (store.find(text) or key).revoked is None
        monkeypatch.setattr(store, "revoke", write)
        await asyncio.sleep(0.5)
        assert (store.find(text) or key).revoked
        await ring.close()

    asyncio.run(run())
    messages = capsys.readouterr().err
    assert "disk is full" in messages
    assert "is written now" in messages


def test_usage_is_written_when_the_lock_is_gone_without_another_request(tmp_path: Path) -> None:
    store = KeyStore(tmp_path / "keys.sqlite")
    usage = KeyUsage(key="a", model="m", prompt_tokens=3, completion_tokens=4)

    async def run() -> None:
        ledger = Ledger(store, None)
        with closing(sqlite3.connect(store.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            for _ in range(3):
                await ledger.record(usage, {})
            other.execute("ROLLBACK")
        assert ledger.failures
        for _ in range(50):
            await asyncio.sleep(0.1)
            if store.tokens_of_day(today()) == {"a": 21}:
                break
        assert store.tokens_of_day(today()) == {"a": 21}
        ledger.close()

    asyncio.run(run())


def test_a_command_on_a_locked_file_says_so(tmp_path: Path) -> None:
    with closing(KeyStore(tmp_path / "keys.sqlite")) as store:
        key, _ = store.create("x")
    with _locked(tmp_path / "keys.sqlite"), pytest.raises(KannaError, match="locked"):
        key_management.keys("revoke", key.id, state=tmp_path)


def test_the_audit_log_is_whole_after_its_disk_was_full(tmp_path: Path) -> None:
    """A full disk takes a part of a line, and the rest of it comes first when there is room."""
    with disturbances.small_disk(tmp_path / "logs", "64k") as logs:
        log = AuditLog(logs / "audit.jsonl")
        filler = logs / "filler"
        filler.write_bytes(b"x" * (56 << 10))
        lines = [json.dumps({"n": n, "text": "x" * 100}) for n in range(200)]
        with pytest.raises(OSError, match="space"):
            log.write(lines[:150])
        with pytest.raises(OSError, match="space"):
            log.write(lines[150:])
        assert log.waits
        filler.unlink()
        log.write([])
        log.close()
        assert (logs / "audit.jsonl").read_text().splitlines() == lines


def test_an_audit_log_that_is_moved_away_begins_anew(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.jsonl")
    log.write(["one"])
    (tmp_path / "audit.jsonl").rename(tmp_path / "audit.jsonl.1")
    log.write(["two"])
    log.write(["three"])
    (tmp_path / "audit.jsonl").unlink()
    log.write(["four"])
    log.close()
    assert (tmp_path / "audit.jsonl.1").read_text() == "one\n"
    assert (tmp_path / "audit.jsonl").read_text() == "four\n"
    assert (tmp_path / "audit.jsonl").stat().st_mode & 0o777 == 0o600


def test_an_audit_log_without_room_keeps_no_more_than_it_may(tmp_path: Path) -> None:
    log = AuditLog(Path("/dev/full"))
    for _ in range(50):
        with pytest.raises(OSError, match="space"):
            log.write(["x" * (1 << 20)])
    assert len(log._unwritten) <= 4 << 20
    log.close()


@pytest.mark.parametrize("engines", ["gguf"], indirect=True)
def test_a_stream_whose_engine_ended_counts_what_was_sent(engines: Local) -> None:
    """And an answer that did not come counts nothing."""
    before = len(engines.log())
    options: Any = {"prompt": "hi", "max_tokens": 1900, "ignore_eos": True, "model": "m"}
    outcomes: list[Outcome] = []

    def ask_for(more: dict[str, Any]) -> None:
        outcomes.append(ask(engines.url, "none", options | more))

    asking = [threading.Thread(target=ask_for, args=({"stream": s},)) for s in (True, False)]
    for thread in asking:
        thread.start()
    until(lambda: _generated(engines) > 10, 30)
    os.kill(engines.main.pid, signal.SIGKILL)
    for thread in asking:
        thread.join()
    [broken] = [outcome for outcome in outcomes if outcome.broken]
    [failed] = [outcome for outcome in outcomes if not outcome.broken]
    assert failed.status == 503 and failed.retryable and broken.retryable
    until(lambda: len(engines.log()) == before + 2)
    counted = {
        (entry["prompt_tokens"], entry["completion_tokens"]) for entry in engines.log()[before:]
    }
    assert counted == {(0, broken.completion), (0, 0)} and broken.completion > 0
    until(lambda: engines.main.state == "ready", 60)
