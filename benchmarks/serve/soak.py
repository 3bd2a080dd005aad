"""Sixteen unruly clients on one gateway for half an hour.

Nothing may leak, stick or fail but by design.

    python -m benchmarks.serve.soak                         # 30 minutes python -m benchmarks.serve.soak
    --minutes 5 --kills 3   # kill -9 of the engine three times in between python -m benchmarks.serve.soak
    --model stories.gguf --pause 2   # another model, clients that think for 2 s on average python -m benchmarks.serve.soak --replay                # without a model: more requests, and the gateway
    alone

Each client does one thing after another, by chance: whole answers, streams, several choices,
embeddings, tokens; leaves before, in the middle of and after an answer; reads slowly; sends
nonsense, half requests and too much. Printed at the end, as JSON, with what is wrong in `wrong`:

  memory    resident bytes of the gateway and of its engines, and their slope over the second half,
  with its error statuses  what was answered; 5xx are 503 and 504 alone, and 502 and 503 after a
  kill stuck     requests still at the engine or in the queue, and busy slots, seconds after the
  last client left usage     requests and tokens: in the database, in the audit log, and as clients
  were told
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]

from kanna.sources import packages  # noqa: E402

CHAT, COMPLETE = "/v1/chat/completions", "/v1/completions"


class Soak:
    def __init__(self, url: str, seed: int, pause: float) -> None:
        self.pause = pause
        self.url, self.random = url, random.Random(seed)
        self.statuses: Counter[str] = Counter()
        self.done: Counter[str] = Counter()
        self.told = Counter[str]()  # usage of answers that came whole
        self.session: Any = None
        self.end = 0.0

    async def client(self) -> None:
        doings = [
            self.whole,
            self.stream,
            self.many,
            self.leave_early,
            self.leave_in_the_middle,
            self.slow_reader,
            self.nonsense,
            self.half,
            self.too_much,
            self.embed,
            self.tokens,
        ]
        weights = [6, 6, 2, 4, 6, 2, 3, 1, 1, 1, 2]
        while time.monotonic() < self.end:
            [doing] = self.random.choices(doings, weights)
            self.done[doing.__name__] += 1
            try:
                await doing()
            except (aiohttp.ClientError, asyncio.TimeoutError, ConnectionError) as error:
                self.statuses[f"{doing.__name__}: {type(error).__name__}"] += 1
            await asyncio.sleep(self.random.random() * 2 * self.pause)

    def body(self, **more: Any) -> dict[str, Any]:
        words = " ".join(
            self.random.choices(
                ["plane", "wood", "iron", "thin", "edge"], k=self.random.randint(3, 60)
            )
        )
        messages = [{"role": "user", "content": words}]
        return {
            "model": "m",
            "messages": messages,
            "max_tokens": self.random.randint(1, 24),
            **more,
        }

    async def post(self, path: str, body: Any) -> Any:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"content-type": "application/json"}
        async with self.session.post(self.url + path, data=data, headers=headers) as answer:
            self.statuses[str(answer.status)] += 1
            found = await answer.read()
            try:
                return json.loads(found) if answer.status == 200 else None
            except ValueError:
                return found

    def tell(self, answer: Any) -> None:
        if isinstance(answer, dict) and answer.get("usage"):
            self.told["prompt"] += answer["usage"].get("prompt_tokens", 0)
            self.told["completion"] += answer["usage"].get("completion_tokens", 0) or 0

    async def whole(self) -> None:
        self.tell(await self.post(CHAT, self.body()))

    async def many(self) -> None:
        ask = {
            "model": "m",
            "prompt": ["a b c", "1 2 3"],
            "n": 2,
            "max_tokens": 4,
            "echo": True,
            "logprobs": 1,
        }
        self.tell(await self.post(COMPLETE, ask))

    async def stream(self, pause: float = 0.0, leave: int | None = None) -> None:
        body = self.body(stream=True, stream_options={"include_usage": True})
        async with self.session.post(self.url + CHAT, json=body) as answer:
            self.statuses[str(answer.status)] += 1
            count = 0
            async for line in answer.content:
                count += line.startswith(b"data: ")
                if b'"usage":{' in line or b'"usage": {' in line:
                    self.tell(json.loads(line[6:]))
                if b'"error"' in line and leave is None:
                    self.statuses["error in a stream"] += 1
                if pause:
                    await asyncio.sleep(pause)
                if leave is not None and count >= leave:
                    answer.close()
                    return

    async def slow_reader(self) -> None:
        await self.stream(pause=0.1)

    async def leave_in_the_middle(self) -> None:
        # Its last words may have been said already; what it was told of usage then counts as told.
        await self.stream(leave=self.random.randint(1, 6))

    async def leave_early(self) -> None:
        stream = self.random.random() < 0.5
        try:
            await asyncio.wait_for(
                self.post(CHAT, self.body(stream=stream)), self.random.random() * 0.2
            )
        except asyncio.TimeoutError:
            self.statuses["left early"] += 1

    async def nonsense(self) -> None:
        wrong: list[dict[str, Any]] = [{"temperature": "hot"}, {"model": "x"}, {"n": 99}]
        some = [b"", b"{", b"[]", b'{"model": "m"}', os.urandom(40), b"[" * 20000]
        some += [json.dumps(self.body(**w)).encode() for w in wrong]
        path = self.random.choice([CHAT, COMPLETE, "/v1/embeddings", "/tokenize", "/nowhere"])
        await self.post(path, self.random.choice(some))

    async def half(self) -> None:
        host, port = self.url[7:].split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        head = b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: 50\r\n\r\n{"
        writer.write(head[: self.random.choice([13, len(head)])])
        await writer.drain()
        await asyncio.sleep(self.random.random())
        writer.close()

    async def too_much(self) -> None:
        await self.post(CHAT, b" " * (9 << 20))

    async def embed(self) -> None:
        self.tell(await self.post("/v1/embeddings", {"model": "m", "input": "a plane"}))

    async def tokens(self) -> None:
        await self.post("/tokenize", {"model": "m", "content": "a plane"})


def resident(process: psutil.Process) -> tuple[int, int]:
    """Of the gateway and of everything below it."""
    below = 0
    for child in process.children(recursive=True):
        try:
            below += child.memory_info().rss
        except psutil.Error:
            continue
    return process.memory_info().rss, below


def slope(times: list[float], values: list[float]) -> tuple[float, float]:
    """Bytes per minute over the second half, and its standard error."""
    x, y = np.array(times[len(times) // 2 :]) / 60, np.array(values[len(values) // 2 :])
    x = x - x.mean()
    rate = float((x * y).sum() / (x * x).sum())
    rest = y - y.mean() - rate * x
    # Neighbours in time say nearly the same: the error is that of blocks of half a minute.
    return rate, float(np.sqrt((rest**2).sum() / max(1, len(x) - 2) / (x * x).sum()) * np.sqrt(30))


async def run(
    process: subprocess.Popen[str], url: str, state: Path, options: argparse.Namespace
) -> dict[str, Any]:
    soak = Soak(url, options.seed, options.pause)
    soak.end = time.monotonic() + 60 * options.minutes
    kills = [
        soak.end - 60 * options.minutes * (i + 1) / (options.kills + 1)
        for i in range(options.kills)
    ]
    watched, times, ours, theirs = (
        psutil.Process(process.pid),
        list[float](),
        list[float](),
        list[float](),
    )

    async def watch() -> None:
        begun = time.monotonic()
        while time.monotonic() < soak.end:
            now = resident(watched)
            times.append(time.monotonic() - begun)
            ours.append(now[0])
            theirs.append(now[1])
            if kills and time.monotonic() > kills[-1]:
                kills.pop()
                async with soak.session.get(url + "/status") as answer:
                    pid = (await answer.json())[0]["pid"]
                os.kill(pid, signal.SIGKILL)
                soak.statuses["killed"] += 1
            await asyncio.sleep(1)

    timeout = aiohttp.ClientTimeout(total=120)
    async with aiohttp.ClientSession(
        timeout=timeout, connector=aiohttp.TCPConnector(limit=0)
    ) as session:
        soak.session = session
        await asyncio.gather(watch(), *(soak.client() for _ in range(options.clients)))
        await asyncio.sleep(5)
        async with session.get(url + "/status") as answer:
            [status] = await answer.json()
        async with session.get(url + "/metrics") as answer:
            metrics = await answer.text()
    busy = re.search(r'kanna_batch_size\{model="m"\} (\S+)', metrics)
    stuck = {
        "running": status["running"],
        "waiting": status["waiting"],
        "slots": float(busy[1]) if busy else None,
    }
    process.send_signal(signal.SIGINT)
    process.wait(30)
    return report(soak, state, stuck, times, ours, theirs, options)


def report(
    soak: Soak,
    state: Path,
    stuck: dict[str, Any],
    times: list[float],
    ours: list[float],
    theirs: list[float],
    options: argparse.Namespace,
) -> dict[str, Any]:
    database = (
        sqlite3.connect(state / "keys.sqlite")
        .execute("SELECT SUM(requests), SUM(prompt_tokens), SUM(completion_tokens) FROM usage")
        .fetchone()
    )
    lines = [json.loads(line) for line in (state / "audit.jsonl").read_text().splitlines()]
    log = (
        len(lines),
        sum(e["prompt_tokens"] for e in lines),
        sum(e["completion_tokens"] for e in lines),
    )
    complete = [e for e in lines if e["status"] == 200]
    whole = (
        sum(e["prompt_tokens"] for e in complete),
        sum(e["completion_tokens"] for e in complete),
    )
    rates = {"gateway": slope(times, ours), "engines": slope(times, theirs)}
    wrong: list[str] = []
    if any(stuck.values()):
        wrong.append(f"stuck: {stuck}")
    if database != log:
        wrong.append(f"the database has {database}, the audit log {log}")
    if whole[0] < soak.told["prompt"] or whole[1] < soak.told["completion"]:
        wrong.append(f"clients were told of {dict(soak.told)}, counted are {whole}")
    by_design = {"503", "504"} | ({"502"} if options.kills else set())
    failures = {s: n for s, n in soak.statuses.items() if re.fullmatch(r"5\d\d", s)}
    wrong += [f"{n} answers of {s}" for s, n in failures.items() if s not in by_design]
    for name, (rate, error) in rates.items():
        if rate > 3 * error and rate * options.minutes / 2 > 5e6 and not options.kills:
            wrong.append(f"the memory of {name} grows by {rate / 1e6:.2f} MB a minute")
    return {
        "minutes": options.minutes,
        "requests": sum(soak.done.values()),
        "doings": dict(soak.done),
        "statuses": dict(soak.statuses.most_common()),
        "stuck": stuck,
        "memory": {
            name: {
                "first_mb": round(v[min(10, len(v) - 1)] / 1e6, 1),
                "last_mb": round(v[-1] / 1e6, 1),
                "mb_per_minute": round(rates[name][0] / 1e6, 3),
                "error": round(rates[name][1] / 1e6, 3),
            }
            for name, v in (("gateway", ours), ("engines", theirs))
        },
        "usage": {
            "database": database,
            "audit": log,
            "of whole answers": whole,
            "told": dict(soak.told),
        },
        "wrong": wrong,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--model", type=Path, help="a GGUF; SmolLM2-135M in Q4_1 by default")
    parser.add_argument(
        "--pause", type=float, default=0.15, help="seconds a client thinks between two doings, mean"
    )
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--replay",
        action="store_true",
        help="an engine that answers from a script: the gateway alone",
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    }
    with tempfile.TemporaryDirectory() as folder:
        model = f"m={options.model or packages.smollm2_gguf()}"
        command = [
            sys.executable,
            "-m",
            "kanna",
            "serve",
            model,
            "--port",
            "0",
            "--state",
            folder,
            "--audit",
            f"{folder}/audit.jsonl",
            "--context",
            "512",
            "--parallel",
            "4",
            "--threads",
            str(options.threads),
            "--llama-server",
            "never",
        ]
        if options.replay:
            from helpers.replay_engine import program

            command[-1] = program(folder)
        log = Path(folder) / "log"
        with log.open("w") as errors:
            process = subprocess.Popen(command, stderr=errors, text=True, env=environment)
        try:
            while not (where := re.search(r"(http://\S+)/v1", log.read_text())):
                time.sleep(0.1)
            found = asyncio.run(run(process, where[1], Path(folder), options))
            found["log"] = dict(Counter(log.read_text().splitlines()).most_common(5))
        finally:
            process.kill()
    print(json.dumps(found, indent=2))
    sys.exit(1 if found["wrong"] else 0)


if __name__ == "__main__":
    main()
