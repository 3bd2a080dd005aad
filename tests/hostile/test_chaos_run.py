"""Honest clients at three engines while an attacker sends whatever stops one, and things break.

Engines are killed and SQLite is locked meanwhile. `pytest -m chaos --chaos-minutes 30`.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from helpers import engine_artefacts
from helpers.attackers import REQUESTS
from helpers.gateway_process import Running, kanna, start, stop
from helpers.gateways import until

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.skipif(sys.platform != "linux", reason="signals, and memory from /proc"),
]
MODELS = ("small", "onnx", "mlx")
HONEST, ATTACKERS = 6, 2
"""Clients of each kind: what two processors can tell apart."""
KILL_EVERY, LOCK_EVERY, LOCK_TIME = 20.0, 15.0, 2.0
PROMPTS = [f"the answer to question {i} is" for i in range(12)]
RETRYABLE = {503}
MAX_ADDED = 0.050
"""Seconds that attacks may add to the 99th percentile of what the gateway answers by itself."""


@dataclass
class Honest:
    """What the honest clients met."""

    answered: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    retried: int = 0
    wrong: list[str] = field(default_factory=list)
    health_times: list[float] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, str, str]]:
    shared = {e: engine_artefacts.shared(e, tmp_path_factory) for e in engine_artefacts.ENGINES}
    state = tmp_path_factory.mktemp("state")
    honest, hostile = (
        json.loads(
            kanna("keys", "create", "--name", name, "--scope", scope, "--json", state=state).stdout
        )["key"]
        for name, scope in (("honest", "infer"), ("hostile", "infer"))
    )
    others = [f"{engine}={shared[engine]}" for engine in ("onnx", "mlx")]
    limits = ["--queue", "512", "--time-limit", "30", "--llama-server", "never"]
    running = start(shared["gguf"], state, *others, "--keys", *limits)
    until(lambda: running.get("/ready")[0] == 200, 120)
    yield running, honest, hostile
    stop(running)


def _body(model: str, prompt: str) -> bytes:
    body = {"model": model, "prompt": prompt, "max_tokens": 6, "temperature": 0}
    return json.dumps(body).encode()


def _encoded(model: str, body: dict[str, Any] | bytes) -> bytes:
    return body if isinstance(body, bytes) else json.dumps({"model": model, **body}).encode()


def _answer(running: Running, key: str, model: str, prompt: str) -> tuple[int, Any]:
    try:
        status, text = running.post("/v1/completions", _body(model, prompt), key)
    except OSError as error:
        return 0, repr(error)
    return status, json.loads(text)


class Chaos:
    """One run: the same honest work, quiet at first and then under attack."""

    def __init__(self, running: Running, honest: str, hostile: str, seed: int) -> None:
        self.running, self.honest_key, self.hostile_key = running, honest, hostile
        self.random = random.Random(seed)
        self.over = threading.Event()
        self.expected: dict[tuple[str, str], str] = {}
        self.problems: list[str] = []
        # Written once: what makes them must not keep the clock of the honest waiting.
        self.attacks = {
            (model, name): (path, _encoded(model, body))
            for model, (name, (path, body)) in itertools.product(MODELS, REQUESTS.items())
        }

    def record_quiet_answers(self) -> None:
        for model, prompt in itertools.product(MODELS, PROMPTS):
            status, answer = _answer(self.running, self.hostile_key, model, prompt)
            assert status == 200, answer
            self.expected[model, prompt] = answer["choices"][0]["text"]

    def run(self, seconds: float, *, attacked: bool) -> Honest:
        """Honest work for some seconds."""
        honest = Honest()
        self.over.clear()
        work = [lambda: self._ask(honest)] * HONEST + [lambda: self._look(honest)]
        if attacked:
            work += [self._attack] * ATTACKERS + [self._kill_engines, self._lock_keys]
        threads = [threading.Thread(target=part) for part in work]
        for thread in threads:
            thread.start()
        time.sleep(seconds)
        self.over.set()
        for thread in threads:
            thread.join(90)
        return honest

    def _ask(self, honest: Honest) -> None:
        choices = random.Random(self.random.random())
        while not self.over.is_set():
            model, prompt = choices.choice(MODELS), choices.choice(PROMPTS)
            for attempt in range(40):
                status, answer = _answer(self.running, self.honest_key, model, prompt)
                if status not in RETRYABLE:
                    break
                with honest.lock:
                    honest.retried += 1
                time.sleep(min(2.0, 0.25 * (attempt + 1)))
            with honest.lock:
                if status != 200:
                    honest.wrong.append(f"{model}: {status} {str(answer)[:200]}")
                elif answer["choices"][0]["text"] != self.expected[model, prompt]:
                    honest.wrong.append(f"{model}: another answer to {prompt!r}")
                else:
                    honest.answered += 1
                    honest.prompt_tokens += answer["usage"]["prompt_tokens"]
                    honest.completion_tokens += answer["usage"]["completion_tokens"]

    def _look(self, honest: Honest) -> None:
        """What the gateway answers by itself, whatever its engines do."""
        while not self.over.is_set():
            started = time.monotonic()
            status, _ = self.running.get("/health")
            honest.health_times.append(time.monotonic() - started)
            if status != 200:
                honest.wrong.append(f"/health: {status}")
            self.over.wait(0.02)

    def _attack(self) -> None:
        choices = random.Random(self.random.random())
        while not self.over.is_set():
            name = choices.choice(list(REQUESTS))
            path, data = self.attacks[choices.choice(MODELS), name]
            try:
                status, text = self.running.post(path, data, self.hostile_key)
            except OSError:
                continue  # a connection that is closed is an answer as well
            if status >= 500 and status not in {501, 503, 504}:
                self.problems.append(f"{name}: {status} {text[:200]}")

    def _kill_engines(self) -> None:
        while not self.over.wait(KILL_EVERY):
            gateway = psutil.Process(self.running.process.pid)
            engines = [p for p in gateway.children() if "kanna.serving.child" in p.cmdline()]
            if engines:
                with suppress(ProcessLookupError):
                    os.kill(
                        self.random.choice(engines).pid,
                        self.random.choice([signal.SIGKILL, signal.SIGSEGV, signal.SIGSTOP]),
                    )

    def _lock_keys(self) -> None:
        while not self.over.wait(LOCK_EVERY):
            keys = sqlite3.connect(self.running.state / "keys.sqlite", timeout=5)
            with closing(keys), suppress(sqlite3.OperationalError):
                keys.execute("BEGIN IMMEDIATE")
                time.sleep(LOCK_TIME)
                keys.rollback()


def _usage(state: Path, name: str) -> tuple[int, int]:
    """Tokens of prompts and of answers that the database has for a key."""
    with closing(sqlite3.connect(state / "keys.sqlite")) as keys:
        row = keys.execute(
            "SELECT SUM(prompt_tokens), SUM(completion_tokens) FROM usage "
            "WHERE key = (SELECT id FROM keys WHERE name = ?)",
            (name,),
        ).fetchone()
    return row[0] or 0, row[1] or 0


def _resident(running: Running) -> float:
    return psutil.Process(running.process.pid).memory_info().rss / 1e6


def test_honest_clients_notice_nothing(
    server: tuple[Running, str, str], request: pytest.FixtureRequest
) -> None:
    running, honest_key, hostile_key = server
    seconds = 60 * float(request.config.getoption("--chaos-minutes"))
    chaos = Chaos(running, honest_key, hostile_key, seed=0)
    chaos.record_quiet_answers()
    quiet = chaos.run(max(10.0, seconds / 10), attacked=False)
    chaos.run(min(30.0, seconds / 4), attacked=True)  # until caches and pools are full
    before = _resident(running)
    baseline = _usage(running.state, "honest")
    noisy = chaos.run(seconds, attacked=True)
    until(lambda: running.get("/ready")[0] == 200, 60)
    after = _resident(running)
    time.sleep(3)  # until usage that met a lock is written
    counted = _usage(running.state, "honest")
    added = float(np.percentile(noisy.health_times, 99) - np.percentile(quiet.health_times, 99))
    print(
        f"quiet: {quiet.answered} answers; under attack: {noisy.answered}, retried "
        f"{noisy.retried}; p99 added {1000 * added:.0f} ms; memory {before:.0f} → {after:.0f} MB"
    )
    assert quiet.wrong == [] and noisy.wrong == []
    assert chaos.problems == []
    assert noisy.answered > 0
    # An answer that was cut by a killed engine is sent again, and both were computed.
    assert counted[0] - baseline[0] >= noisy.prompt_tokens
    assert counted[1] - baseline[1] >= noisy.completion_tokens
    if not noisy.retried:
        assert counted[0] - baseline[0] == noisy.prompt_tokens
        assert counted[1] - baseline[1] == noisy.completion_tokens
    assert after - before < 30 + seconds / 60, "memory grows"
    assert added <= MAX_ADDED
