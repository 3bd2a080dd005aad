"""10,000 devices that ask the server of a fleet once a minute, and report, on one core.

    python -m benchmarks.fleet.load --devices 10000 --period 60
    python -m benchmarks.fleet.load --devices 10000 --period 60 --tls

Every device opens a connection for each question, as `kanna agent` does. Times count from when a
question was due, not from when the generator came to it; how late it came is said, too. At the end
the server is killed with SIGKILL, and every report that it had acknowledged must be in its store.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import ssl
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import psutil
import uvloop

from kanna.fleet.controller import Controller
from kanna.fleet.rings import Ring
from kanna.fleet.store import FleetStore

DIGEST = "ab" * 32


def prepare(place: str | Path, count: int) -> list[str]:
    """A store with devices and a rollout for all of them; their keys."""
    with closing(FleetStore(place)) as store:
        controller = Controller(store)
        with store.transaction():
            keys = [controller.add_device(f"device-{n:05}") for n in range(count)]
            store.add_artefact(DIGEST, 1, "model", 1, ("{}", None))
            controller.start(DIGEST, (Ring(percent=100, failures=count),))
    return keys


class Generator:
    """Questions and reports, each at its time."""

    def __init__(self, port: int, keys: list[str], tls: ssl.SSLContext | None) -> None:
        self.port, self.keys, self.tls = port, keys, tls
        self.late: list[float] = []
        self.polls: list[float] = []
        self.reports: list[float] = []
        self.acknowledged: set[int] = set()
        self.failed = 0

    async def ask(self, key: str, path: str, body: dict[str, object]) -> tuple[int, bytes]:
        """Status and body of an answer, over a connection of its own."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=self.tls)
        data = json.dumps(body).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n"
            "Connection: close\r\n\r\n"
        )
        writer.write(head.encode() + data)
        answer = await reader.read()
        writer.close()
        first, _, rest = answer.partition(b"\r\n\r\n")
        return int(first.split(b" ", 2)[1]), rest

    async def device(self, number: int, due: float) -> None:
        """One device: its question and, where something is new, its report."""
        key = self.keys[number]
        self.late.append(time.perf_counter() - due)
        try:
            status, data = await self.ask(key, "/v1/poll", {"current": None})
            self.polls.append(time.perf_counter() - due)
            order = json.loads(data)
            assert status == 200 and order["wanted"] == DIGEST
            begin = time.perf_counter()
            body: dict[str, object] = {
                "number": order["number"],
                "digest": DIGEST,
                "outcome": "passed",
            }
            status, _ = await self.ask(key, "/v1/reports", body)
            self.reports.append(time.perf_counter() - begin)
            assert status == 204
            self.acknowledged.add(number)
        except (OSError, ValueError, AssertionError, IndexError):
            self.failed += 1

    async def run(self, period: float) -> None:
        """All of them, spread over a period."""
        begin, tasks = time.perf_counter(), list[asyncio.Task[None]]()
        for number in range(len(self.keys)):
            due = begin + number * period / len(self.keys)
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            tasks.append(asyncio.create_task(self.device(number, due)))
        await asyncio.gather(*tasks)


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself, and its key: P-256."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    about = ["-nodes", "-days", "2", "-subj", "/CN=fleet", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(cert)]
    subprocess.run([*make, *about, *files], check=True, capture_output=True)
    return cert, key


def percentile(values: list[float], share: float) -> float:
    """In milliseconds."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] * 1000


def main() -> None:
    """Run it and print a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=10_000)
    parser.add_argument("--period", type=float, default=60.0, help="seconds between two questions")
    parser.add_argument("--tls", action="store_true", help="HTTPS, a handshake for each question")
    parser.add_argument("--database", help="URL of an empty database of PostgreSQL")
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        place = options.database or folder / "fleet.sqlite"
        keys = prepare(place, options.devices)
        words = ["-m", "kanna", "fleet", "serve", "--state", scratch, "--port", "0"]
        words += ["--database", options.database] if options.database else []
        tls = None
        if options.tls:
            cert, key = certificate(folder)
            words += ["--tls-cert", str(cert), "--tls-key", str(key)]
            tls = ssl.create_default_context(cafile=str(cert))
        server = subprocess.Popen([sys.executable, *words], stderr=subprocess.PIPE, text=True)
        try:
            assert server.stderr is not None
            match = next(filter(None, (re.search(r"https?://.*:(\d+)", t) for t in server.stderr)))
            os.sched_setaffinity(server.pid, {cores[0]})
            os.sched_setaffinity(0, set(cores[1:]) or {cores[0]})
            process = psutil.Process(server.pid)
            before = sum(process.cpu_times()[:2])
            load = Generator(int(match[1]), keys, tls)
            uvloop.run(load.run(options.period))
            used = sum(process.cpu_times()[:2]) - before
            memory = process.memory_info().rss
        finally:
            server.kill()
            server.wait()
        with closing(FleetStore(place)) as store:
            kept = store.statuses(1).get((0, "passed"), 0)
    print(
        json.dumps(
            {
                "devices": options.devices,
                "database": "postgresql" if options.database else "sqlite",
                "tls": options.tls,
                "failed": load.failed,
                "generator_late_p99_ms": round(percentile(load.late, 0.99), 1),
                "poll_p50_ms": round(percentile(load.polls, 0.5), 1),
                "poll_p99_ms": round(percentile(load.polls, 0.99), 1),
                "report_p99_ms": round(percentile(load.reports, 0.99), 1),
                "reports_acknowledged": len(load.acknowledged),
                "reports_kept": kept,
                "server_cpu_seconds": round(used, 1),
                "server_mb": round(memory / 1e6),
                "load_average": round(os.getloadavg()[0], 1),
            }
        )
    )


if __name__ == "__main__":
    main()
