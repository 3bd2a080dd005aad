"""Honest clients at three engines while an attacker sends whatever stops one, and things break.

Engines are killed and stopped, SQLite is locked, the disks of keys and logs fill and the clock
jumps meanwhile. `pytest -m chaos --chaos-minutes 30`.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from helpers import disturbances, engine_artefacts
from helpers.attackers import REQUESTS
from helpers.disturbances import Clock
from helpers.gateway_process import Running, kanna, start, stop
from helpers.gateways import until
from helpers.honest_clients import Record, ask
from helpers.memory_watch import MemoryWatch

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.skipif(sys.platform != "linux", reason="signals, and memory from /proc"),
]
MODELS = ("small", "onnx", "mlx")
HONEST, ATTACKERS = 32, 2
PAUSE = 0.6
"""Seconds at most between two requests of one client: people read what they get."""
KILL_EVERY, LOCK_EVERY, LOCK_TIME, FILL_EVERY, FILL_TIME = 20.0, 15.0, 2.0, 17.0, 3.0
JUMP_EVERY, DAY = 11.0, 86_400.0
JUMPS = (3600.0, -3600.0, DAY, -DAY, 400 * DAY, -400 * DAY, 0.0)
PROMPTS = [f"the answer to question {i} is" for i in range(12)]
MAX_ADDED = 0.050
"""Seconds that attacks may add to the 99th percentile of what the gateway answers by itself."""
MAX_SLOPE = 0.5
"""Megabytes per minute that memory may seem to grow in a run of minutes."""
WARM_UP = 60.0


@dataclass
class Stage:
    """A gateway of three engines on small disks, with a clock that can be moved.

    Attributes:
        logs: The disk of the audit log; that of keys is `running.state`.
        keys: By name: `honest`, `hostile`, `revoked`, `watching`.
    """

    running: Running
    logs: Path
    clock: Clock
    keys: dict[str, str]

    @property
    def url(self) -> str:
        return self.running.url


@pytest.fixture
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    shared = {e: engine_artefacts.shared(e, tmp_path_factory) for e in engine_artefacts.ENGINES}
    folder = tmp_path_factory.mktemp("chaos")
    with ExitStack() as stack:
        state = stack.enter_context(disturbances.small_disk(folder / "state", "4m"))
        logs = stack.enter_context(disturbances.small_disk(folder / "logs", "128m"))
        clock = disturbances.clock(folder)
        keys = {
            name: _key(state, name, scope)
            for name, scope in (
                ("honest", "infer"),
                ("hostile", "infer"),
                ("revoked", "infer"),
                ("watching", "metrics"),
            )
        }
        others = [f"{engine}={shared[engine]}" for engine in ("onnx", "mlx")]
        limits = ["--queue", "512", "--time-limit", "60", "--llama-server", "never"]
        limits += ["--audit", str(logs / "audit.jsonl")]
        running = start(
            shared["gguf"], state, *others, "--keys", *limits, environment=clock.environment
        )
        assert running.process.stderr
        threading.Thread(target=running.process.stderr.read, daemon=True).start()
        stack.callback(stop, running)
        until(lambda: running.get("/ready")[0] == 200, 120)
        yield Stage(running, logs, clock, keys)


def _key(state: Path, name: str, scope: str) -> str:
    made = kanna("keys", "create", "--name", name, "--scope", scope, "--json", state=state)
    return json.loads(made.stdout)["key"]


def _body(model: str, prompt: str, *, streamed: bool = False) -> dict[str, Any]:
    body = {"model": model, "prompt": prompt, "max_tokens": 6, "temperature": 0}
    return body | ({"stream": True, "stream_options": {"include_usage": True}} if streamed else {})


def _encoded(model: str, body: dict[str, Any] | bytes) -> bytes:
    return body if isinstance(body, bytes) else json.dumps({"model": model, **body}).encode()


class Chaos:
    """One run: the same honest work, quiet at first and then under attack."""

    def __init__(self, stage: Stage, seed: int) -> None:
        self.stage, self.random = stage, random.Random(seed)
        self.over = threading.Event()
        self.expected: dict[str, str] = {}
        self.problems: list[str] = []
        self.happened: dict[str, int] = dict.fromkeys(("kills", "locks", "full", "jumps"), 0)
        self.memory = MemoryWatch(stage.running.process.pid)
        # Written once: what makes them must not keep the clock of the honest waiting.
        self.attacks = {
            (model, name): (path, _encoded(model, body))
            for model, (name, (path, body)) in itertools.product(MODELS, REQUESTS.items())
        }

    def record_quiet_answers(self) -> None:
        """Whole and streamed: llama.cpp streams no character that its last token does not end."""
        for model, prompt, streamed in itertools.product(MODELS, PROMPTS, (False, True)):
            body = _body(model, prompt, streamed=streamed)
            answer = ask(self.stage.url, self.stage.keys["hostile"], body)
            assert answer.status == 200, answer
            self.expected[json.dumps(body)] = answer.text

    def run(self, seconds: float, record: Record, *, attacked: bool) -> list[float]:
        """Honest work for some seconds; returns how long the gateway took for its own answers."""
        self.over.clear()
        work: list[Callable[[], None]] = [lambda: self._ask(record)] * HONEST
        if attacked:
            work += [self._attack] * ATTACKERS + [self._kill, self._lock, self._fill, self._jump]
            work += [self._try_revoked, lambda: self.memory.run(self.over)]
        probe = subprocess.Popen(
            [sys.executable, "-m", "helpers.health_probe", self.stage.url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        threads = [threading.Thread(target=part) for part in work]
        for thread in threads:
            thread.start()
        time.sleep(seconds)
        seen = json.loads(probe.communicate()[0])
        self.over.set()
        for thread in threads:
            thread.join(120)
        assert not any(thread.is_alive() for thread in threads)
        record.wrong += seen["wrong"]
        return seen["times"]

    def _ask(self, record: Record) -> None:
        choices = random.Random(self.random.random())
        while not self.over.wait(PAUSE * choices.random()):
            model, prompt = choices.choice(MODELS), choices.choice(PROMPTS)
            body = _body(model, prompt, streamed=choices.random() < 0.5)
            started = time.monotonic()
            for attempt in range(40):
                outcome = ask(self.stage.url, self.stage.keys["honest"], body)
                seconds = time.monotonic() - started
                if not record.add(outcome, seconds, self.expected[json.dumps(body)], model):
                    break
                time.sleep(min(2.0, 0.25 * (attempt + 1)))

    def _attack(self) -> None:
        choices = random.Random(self.random.random())
        while not self.over.is_set():
            name = choices.choice(list(REQUESTS))
            path, data = self.attacks[choices.choice(MODELS), name]
            try:
                status, text = self.stage.running.post(path, data, self.stage.keys["hostile"])
            except OSError:
                continue  # a connection that is closed is an answer as well
            if status >= 500 and status not in {501, 503, 504}:
                self.problems.append(f"{name}: {status} {text[:200]}")

    def _try_revoked(self) -> None:
        """A key that was revoked passes at no moment."""
        while not self.over.wait(0.5):
            status = ask(self.stage.url, self.stage.keys["revoked"], _body("small", "a")).status
            if status not in {401, 503}:
                self.problems.append(f"a revoked key: {status}")

    def _kill(self) -> None:
        signals = [signal.SIGKILL, signal.SIGSEGV, signal.SIGSTOP]
        while not self.over.wait(KILL_EVERY):
            gateway = psutil.Process(self.stage.running.process.pid)
            with suppress(ProcessLookupError, psutil.Error):  # one that just ended
                engines = [p for p in gateway.children() if "kanna.serving.child" in p.cmdline()]
                if engines:
                    os.kill(self.random.choice(engines).pid, self.random.choice(signals))
                    self.happened["kills"] += 1

    def _lock(self) -> None:
        while not self.over.wait(LOCK_EVERY):
            disturbances.lock(self.stage.running.state / "keys.sqlite", LOCK_TIME)
            self.happened["locks"] += 1

    def _fill(self) -> None:
        for disk in itertools.cycle((self.stage.running.state, self.stage.logs)):
            if self.over.wait(FILL_EVERY):
                return
            disturbances.fill(disk, FILL_TIME)
            self.happened["full"] += 1

    def _jump(self) -> None:
        while not self.over.wait(JUMP_EVERY):
            self.stage.clock.move(self.random.choice(JUMPS))
            self.happened["jumps"] += 1
        self.stage.clock.move(0)


def _accounts(stage: Stage) -> dict[str, dict[str, tuple[int, int]]]:
    """Tokens of prompts and answers by the id of the key, as each place has them."""
    with closing(sqlite3.connect(stage.running.state / "keys.sqlite")) as keys:
        rows = keys.execute(
            "SELECT key, SUM(prompt_tokens), SUM(completion_tokens) FROM usage GROUP BY key"
        ).fetchall()
    database = {key: (prompt, completion) for key, prompt, completion in rows}
    metrics, audit = dict[str, list[int]](), dict[str, list[int]]()
    text = stage.running.get("/metrics", stage.keys["watching"])[1]
    for key, kind, value in re.findall(
        r'^kanna_tokens_total\{key="([^"]*)",kind="([^"]*)",[^}]*\} (\S+)$', text, re.M
    ):
        metrics.setdefault(key, [0, 0])[kind == "completion"] += int(float(value))
    # A full disk took part of the last line, it may be: the rest comes within a second.
    for line in (stage.logs / "audit.jsonl").read_text().split("\n")[:-1]:
        entry = json.loads(line)
        tokens = audit.setdefault(entry["key"], [0, 0])
        tokens[0] += entry["prompt_tokens"]
        tokens[1] += entry["completion_tokens"]
    return {
        "database": database,
        "metrics": {key: (a, b) for key, (a, b) in metrics.items()},
        "audit": {key: (a, b) for key, (a, b) in audit.items()},
    }


def _id(key: str) -> str:
    return key.split("-")[1]


def _figures(chaos: Chaos, quiet: Record, noisy: Record, added: float) -> str:
    p99 = [1000 * float(np.percentile(record.seconds, 99)) for record in (quiet, noisy)]
    slopes = {
        name: None if slope is None else round(slope, 3)
        for name in ("gateway", *engine_artefacts.ENGINES)
        for slope in [chaos.memory.slope(name, WARM_UP if name == "gateway" else 15.0)]
    }
    return (
        f"quiet: {quiet.answered} answers; under attack: {noisy.answered}, sent again "
        f"{noisy.retried.total()}, of them {noisy.broken} broken streams; {chaos.happened}; "
        f"p99 of the gateway's own answers +{1000 * added:.0f} ms, of completions "
        f"{p99[0]:.0f} → {p99[1]:.0f} ms; MB/min {slopes}"
    )


def test_honest_clients_notice_nothing(stage: Stage, request: pytest.FixtureRequest) -> None:
    seconds = 60 * float(str(request.config.getoption("--chaos-minutes")))
    chaos, honest = Chaos(stage, seed=0), _id(stage.keys["honest"])
    chaos.record_quiet_answers()
    assert ask(stage.url, stage.keys["revoked"], _body("small", "a")).status == 200
    assert kanna("keys", "revoke", "revoked", state=stage.running.state).returncode == 0
    quiet, noisy = Record(), Record()
    quiet_times = chaos.run(max(10.0, seconds / 10), quiet, attacked=False)
    noisy_times = chaos.run(seconds, noisy, attacked=True)
    until(lambda: stage.running.get("/ready")[0] == 200, 60)
    added = float(np.percentile(noisy_times, 99) - np.percentile(quiet_times, 99))
    print(_figures(chaos, quiet, noisy, added))
    assert quiet.wrong == [] and noisy.wrong == [] and chaos.problems == []
    assert not quiet.retried and noisy.answered > 0
    if seconds > 60:
        assert noisy.latest - noisy.earliest > DAY, "the clock did not jump"
    # What was delivered, in each of the three places; what met a lock is written a second later.
    delivered = (quiet.prompt + noisy.prompt, quiet.completion + noisy.completion)
    with suppress(AssertionError):
        until(lambda: _accounts(stage)["database"][honest] == delivered, 15)
    accounts = _accounts(stage)
    assert {place: keys[honest] for place, keys in accounts.items()} == dict.fromkeys(
        accounts, delivered
    )
    hostile = _id(stage.keys["hostile"])
    assert len({keys[hostile] for keys in accounts.values()}) == 1, accounts
    if seconds > 240:
        slope = chaos.memory.slope("gateway", WARM_UP)
        assert slope is not None and slope < MAX_SLOPE, "memory grows"
    assert added <= MAX_ADDED
