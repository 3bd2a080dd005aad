"""Keys, limits, queue and ledger of the gateway."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from pathlib import Path

import pytest

from kanna.errors import KannaError, UsageError
from kanna.serving.admission import AdmissionQueue
from kanna.serving.guard.keys import KeyUsage, today
from kanna.serving.guard.ledger import Ledger
from kanna.serving.guard.limits import RateLimiter
from kanna.serving.guard.store import KeyStore
from kanna.serving.problems import ApiError


def test_a_key_is_found_by_its_text_and_kept_only_as_a_hash(tmp_path: Path) -> None:
    store = KeyStore(tmp_path / "keys.db")
    key, text = store.create("phone", scopes=["infer"])
    assert store.find(text) == key
    for other in (
        "",
        "kanna-",
        text[:-1],
        text + "x",
        text.replace("kanna", "other"),
        f"kanna-{key.id}-",
        "\ud800",
    ):
        assert store.find(other) is None
    secret = text.split("-", 2)[2].encode()
    assert all(secret not in p.read_bytes() for p in tmp_path.iterdir())
    assert (tmp_path / "keys.db").stat().st_mode & 0o077 == 0


def test_a_key_revoked_elsewhere_is_invalid_at_once(tmp_path: Path) -> None:
    first, second = KeyStore(tmp_path / "keys.db"), KeyStore(tmp_path / "keys.db")
    key, text = first.create("phone")
    assert (current := first.find(text)) and current.valid(time.time())
    second.revoke(key.id)
    assert (current := first.find(text)) and not current.valid(time.time())
    with pytest.raises(UsageError, match="no key"):
        second.revoke(key.id)


def test_keys_expire_and_have_scopes(tmp_path: Path) -> None:
    key, _ = KeyStore(tmp_path / "keys.db").create("watch", scopes=["metrics"], expires=100.0)
    assert key.valid(99.9)
    assert not key.valid(100.0)
    assert key.allows("metrics")
    assert not key.allows("infer")
    with pytest.raises(UsageError, match="no scope"):
        KeyStore(tmp_path / "keys.db").create("x", scopes=["everything"])


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys.db"
    path.write_bytes(b"not a database " * 100)
    with pytest.raises(KannaError, match="cannot be used"):
        KeyStore(path)


def test_requests_per_minute_say_when_to_come_back(tmp_path: Path) -> None:
    now = [1000.0]
    key, _ = KeyStore(tmp_path / "keys.db").create("x", requests_per_minute=2)
    limiter = RateLimiter(lambda _: {}, lambda: now[0])
    limiter.admit(key)
    limiter.admit(key)
    with pytest.raises(ApiError) as caught:
        limiter.admit(key)
    assert caught.value.status == 429
    assert caught.value.retry_after == pytest.approx(30)
    now[0] += 30
    limiter.admit(key)


def test_the_quota_of_a_day_outlives_a_restart_and_ends_at_midnight(tmp_path: Path) -> None:
    store = KeyStore(tmp_path / "keys.db")
    key, _ = store.create("x", tokens_per_day=10)
    now = [today() * 86_400 + 100.0]
    store.add([KeyUsage(key=key.id, model="m", prompt_tokens=6, completion_tokens=4)], today())
    limiter = RateLimiter(store.tokens_of_day, lambda: now[0])
    with pytest.raises(ApiError, match="used up"):
        limiter.admit(key)
    now[0] += 86_400
    limiter.admit(key)


def test_the_queue_is_bounded_fair_and_forgets_who_left() -> None:
    async def run() -> None:
        queue, order = AdmissionQueue(1, 2), list[int]()

        async def request(number: int) -> None:
            await queue.acquire()
            order.append(number)
            queue.release()

        await queue.acquire()
        first, second = asyncio.create_task(request(1)), asyncio.create_task(request(2))
        await asyncio.sleep(0)
        with pytest.raises(ApiError, match="limit"):
            await queue.acquire()
        first.cancel()
        await asyncio.sleep(0.01)
        third = asyncio.create_task(request(3))
        await asyncio.sleep(0)
        queue.release()
        await asyncio.gather(second, third)
        assert order == [2, 3]
        assert (queue.running, queue.waiting) == (0, 0)

    asyncio.run(run())


def test_the_ledger_commits_before_it_says_so(tmp_path: Path) -> None:
    async def run() -> None:
        ledger = Ledger(KeyStore(tmp_path / "keys.db"), tmp_path / "audit.jsonl")
        use = KeyUsage(key="k", model="m", prompt_tokens=3, completion_tokens=2)
        await asyncio.gather(*(ledger.record(use, {"key": "k"}) for _ in range(50)))
        # Another connection sees it, as another process would after a kill.
        row = sqlite3.connect(tmp_path / "keys.db").execute("SELECT * FROM usage").fetchone()
        assert row == (today(), "k", "m", 50, 150, 100)
        assert (
            len([json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()])
            == 50
        )
        ledger.close()

    asyncio.run(run())
