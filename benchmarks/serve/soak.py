"""Sixteen unruly clients on one gateway for half an hour: what leaks, sticks or fails?

    python -m benchmarks.serve.soak                           # 30 minutes
    python -m benchmarks.serve.soak --minutes 5 --kills 3     # kill -9 of the engine three times
    python -m benchmarks.serve.soak --model stories.gguf --pause 2   # slower clients
    python -m benchmarks.serve.soak --replay                  # the gateway alone, more requests

Each client does one thing after another, by chance: whole answers, streams, several choices,
embeddings, tokens; leaves before, in the middle of and after an answer; reads slowly; sends
nonsense, half requests and too much. Printed at the end, as JSON, with what is wrong in `wrong`:

memory
    Resident bytes of the gateway and of its engines, and their slope over the second half, with its
    error.
statuses
    What was answered; of 5xx only 503 and 504, and 502 and 503 after a kill.
stuck
    Requests still at the engine or in the queue, and busy slots, seconds after the last client is
    gone.
usage
    Requests and tokens: in the database, in the audit log, and as clients were answered.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import psutil
from benchmarks.serve import servers
from benchmarks.serve.unruly_clients import UnrulyClients

from kanna.sources import packages


@dataclass(slots=True)
class MemoryLog:
    """Resident bytes of the gateway and of all below it, once a second."""

    process: psutil.Process
    times: list[float] = field(default_factory=list[float])
    gateway: list[float] = field(default_factory=list[float])
    engines: list[float] = field(default_factory=list[float])

    def sample(self) -> None:
        """Add a line."""
        below = 0
        for child in self.process.children(recursive=True):
            try:
                below += child.memory_info().rss
            except psutil.Error:
                continue
        self.times.append(time.monotonic())
        self.gateway.append(self.process.memory_info().rss)
        self.engines.append(below)

    def slope(self, values: list[float]) -> tuple[float, float]:
        """Bytes per minute over the second half, and its standard error."""
        half = len(values) // 2
        x, y = np.array(self.times[half:]) / 60, np.array(values[half:])
        x = x - x.mean()
        rate = float((x * y).sum() / (x * x).sum())
        residual = y - y.mean() - rate * x
        variance = (residual**2).sum() / max(1, len(x) - 2) / (x * x).sum()
        # Neighbours in time are nearly equal: the error is that of blocks of half a minute.
        return rate, float(np.sqrt(variance) * np.sqrt(30))

    def summary(self, values: list[float]) -> dict[str, float]:
        """First, last and slope, in MB."""
        rate, error = self.slope(values)
        return {
            "first_mb": round(values[min(10, len(values) - 1)] / 1e6, 1),
            "last_mb": round(values[-1] / 1e6, 1),
            "mb_per_minute": round(rate / 1e6, 3),
            "error": round(error / 1e6, 3),
        }


async def soak(
    clients: UnrulyClients, memory: MemoryLog, options: argparse.Namespace
) -> dict[str, Any]:
    """Let the clients loose; what is stuck seconds after they left."""
    clients.end = time.monotonic() + 60 * options.minutes
    kills = [
        clients.end - 60 * options.minutes * (i + 1) / (options.kills + 1)
        for i in range(options.kills)
    ]

    async def watch() -> None:
        while time.monotonic() < clients.end:
            memory.sample()
            if kills and time.monotonic() > kills[-1]:
                kills.pop()
                async with clients.session.get(clients.url + "/status") as answer:
                    pid = (await answer.json())[0]["pid"]
                os.kill(pid, signal.SIGKILL)
                clients.statuses["killed"] += 1
            await asyncio.sleep(1)

    timeout, connector = aiohttp.ClientTimeout(total=120), aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        clients.session = session
        await asyncio.gather(watch(), *(clients.client() for _ in range(options.clients)))
        await asyncio.sleep(5)
        async with session.get(clients.url + "/status") as answer:
            [status] = await answer.json()
        async with session.get(clients.url + "/metrics") as answer:
            metrics = await answer.text()
    busy = re.search(r'kanna_batch_size\{model="m"\} (\S+)', metrics)
    return {
        "running": status["running"],
        "waiting": status["waiting"],
        "slots": float(busy[1]) if busy else None,
    }


def usage(state: Path, clients: UnrulyClients) -> dict[str, Any]:
    """Requests and tokens by every account of them."""
    query = "SELECT SUM(requests), SUM(prompt_tokens), SUM(completion_tokens) FROM usage"
    database = sqlite3.connect(state / "keys.sqlite").execute(query).fetchone()
    lines = [json.loads(line) for line in (state / "audit.jsonl").read_text().splitlines()]

    def tokens(entries: list[Any]) -> tuple[int, int]:
        columns = ("prompt_tokens", "completion_tokens")
        prompt, completion = (sum(entry[c] for entry in entries) for c in columns)
        return prompt, completion

    return {
        "database": database,
        "audit": (len(lines), *tokens(lines)),
        "of whole answers": tokens([entry for entry in lines if entry["status"] == 200]),
        "told": dict(clients.usage),
    }


def problems(
    clients: UnrulyClients,
    memory: MemoryLog,
    report: dict[str, Any],
    options: argparse.Namespace,
) -> list[str]:
    """What is wrong."""
    result: list[str] = []
    if any(report["stuck"].values()):
        result.append(f"stuck: {report['stuck']}")
    counted = report["usage"]
    if counted["database"] != counted["audit"]:
        result.append(f"the database has {counted['database']}, the audit log {counted['audit']}")
    whole, answered = counted["of whole answers"], clients.usage
    if whole[0] < answered["prompt"] or whole[1] < answered["completion"]:
        result.append(f"answers reported {dict(answered)}, counted are {whole}")
    by_design = {"503", "504"} | ({"502"} if options.kills else set())
    failures = {s: n for s, n in clients.statuses.items() if re.fullmatch(r"5\d\d", s)}
    result += [f"{n} answers of {s}" for s, n in failures.items() if s not in by_design]
    for name, values in (("gateway", memory.gateway), ("engines", memory.engines)):
        rate, error = memory.slope(values)
        if rate > 3 * error and rate * options.minutes / 2 > 5e6 and not options.kills:
            result.append(f"the memory of {name} grows by {rate / 1e6:.2f} MB a minute")
    return result


def measure(
    process: subprocess.Popen[str], url: str, state: Path, options: argparse.Namespace
) -> dict[str, Any]:
    """The report of one run, at whose end the gateway is stopped."""
    clients = UnrulyClients(url, options.seed, options.pause)
    memory = MemoryLog(psutil.Process(process.pid))
    stuck = asyncio.run(soak(clients, memory, options))
    process.send_signal(signal.SIGINT)
    process.wait(30)
    report = {
        "minutes": options.minutes,
        "requests": sum(clients.actions.values()),
        "doings": dict(clients.actions),
        "statuses": dict(clients.statuses.most_common()),
        "stuck": stuck,
        "memory": {
            "gateway": memory.summary(memory.gateway),
            "engines": memory.summary(memory.engines),
        },
        "usage": usage(state, clients),
    }
    return report | {"wrong": problems(clients, memory, report, options)}


def command(state: Path, options: argparse.Namespace) -> list[str]:
    """The gateway's command line."""
    engine = servers.replay_program(state) if options.replay else "never"
    model = f"m={options.model or packages.smollm2_gguf()}"
    files = ["--state", str(state), "--audit", str(state / "audit.jsonl")]
    sizes = ["--context", "512", "--parallel", "4", "--threads", str(options.threads)]
    serve = ["-m", "kanna", "serve", model, "--port", "0"]
    return [sys.executable, *serve, *files, *sizes, "--llama-server", engine]


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--model", type=Path, help="a GGUF; SmolLM2-135M in Q4_1 by default")
    parser.add_argument(
        "--pause", type=float, default=0.15, help="mean seconds between two actions of a client"
    )
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--replay",
        action="store_true",
        help="an engine that answers from a script: the gateway alone",
    )
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    options = parse()
    with tempfile.TemporaryDirectory() as name:
        state = Path(name)
        log = state / "log"
        with log.open("w") as errors:
            process = subprocess.Popen(
                command(state, options), stderr=errors, text=True, env=servers.environment()
            )
        try:
            while not (address := re.search(r"(http://\S+)/v1", log.read_text())):
                time.sleep(0.1)
            report = measure(process, address[1], state, options)
            report["log"] = dict(Counter(log.read_text().splitlines()).most_common(5))
        finally:
            process.kill()
    print(json.dumps(report, indent=2))
    sys.exit(1 if report["wrong"] else 0)


if __name__ == "__main__":
    main()
