"""The gateway beside the engine it stands in front of.

The same build, the same options, alternating, medians.

    python -m benchmarks.serve.gateway_overhead                       # every case
    python -m benchmarks.serve.gateway_overhead --cases latency

latency     32 clients and an engine that answers at once, 16 events a request, up to 0.2 s of
            thought in between: what the gateway adds to a request, and the CPU time it takes for
            one
throughput  1, 8 and 32 streaming chats at a time with SmolLM2-135M in Q4_1: tokens per second,
gateway ÷ engine alone start       from the command to the first token, gateway ÷ engine alone onnx,
mlx   8 chats at a time with SmolLM2-135M in float32 ÷ the reference loop of the library, eight at a
time
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / "src"), str(ROOT / "tests")]

from kanna.serving.engines.base import EngineConfig  # noqa: E402
from kanna.sources import packages  # noqa: E402

CHAT = "/v1/chat/completions"
CASES = "latency,throughput,start,onnx,mlx"


@dataclass
class Server:
    """Something that answers chats at a port; `pids` are the processes that are not the engine."""

    port: int
    key: str = ""
    pids: list[int] = field(default_factory=list)

    def cpu(self) -> float:
        """CPU seconds so far."""
        times = [psutil.Process(p).cpu_times() for p in self.pids]
        return sum(t.user + t.system for t in times)


@contextmanager
def gateway(model: Path, *options: object) -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as state:
        command = [
            sys.executable,
            "-m",
            "kanna",
            "serve",
            f"m={model}",
            "--port",
            "0",
            "--state",
            state,
        ]
        process = subprocess.Popen(
            [*command, *map(str, options)], stderr=subprocess.PIPE, text=True, env=environment()
        )
        try:
            assert process.stderr
            for line in process.stderr:
                if found := re.search(r"http://\S+:(\d+)/v1", line):
                    yield Server(int(found[1]), pids=[process.pid])
                    return
            raise SystemExit(f"the gateway ended with {process.wait()}")
        finally:
            process.send_signal(2)
            process.wait(20)


@contextmanager
def engine(
    model: Path, *, slots: int, context: int, threads: int, program: str | None = None
) -> Iterator[Server]:
    """The child process the gateway would start, alone."""
    config = EngineConfig(
        engine="gguf",
        path=str(model),
        name="m",
        key="key",
        context=context,
        slots=slots,
        threads=threads,
        program=program,
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "kanna.serving.child", "gguf"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment(),
    )
    try:
        assert process.stdin and process.stdout
        process.stdin.write(config.to_json() + "\n")
        process.stdin.flush()
        port = int(json.loads(process.stdout.readline())["port"])
        end = time.monotonic() + 60
        while program and time.monotonic() < end:
            try:
                asyncio.run(ask(Server(port, "key"), {"max_tokens": 1, "messages": MESSAGES}))
                break
            except OSError:
                time.sleep(0.05)
        yield Server(port, "key")
    finally:
        process.kill()
        process.wait()


def environment() -> dict[str, str]:
    return os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    }


MESSAGES: Any = [{"role": "user", "content": "Tell me a long story about a hand plane."}]


class Client:
    """One kept connection, read without parsing more than the ends of answers."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.streams: Any = None
        self.used = False

    async def ask(self, body: dict[str, Any]) -> tuple[float, float, int]:
        """Seconds to the first event and to the end, and the number of events with text."""
        if self.streams is None:
            self.streams = await asyncio.open_connection("127.0.0.1", self.server.port)
        reader, writer = self.streams
        data = json.dumps({"model": "m", "stream": True, **body}).encode()
        lines = [
            "host: localhost",
            f"authorization: Bearer {self.server.key}",
            f"content-length: {len(data)}",
        ]
        head = "\r\n".join([f"POST {CHAT} HTTP/1.1", *lines, "\r\n"])
        begun = time.perf_counter()
        writer.write(head.encode() + data)
        first, events, got = 0.0, 0, b""
        while True:
            part = await reader.read(1 << 16)
            if not part:
                kept, self.streams = self.used, None
                self.used = False
                if kept and not got:  # llama.cpp's server closes after some answers
                    return await self.ask(body)
                raise OSError(f"closed after {got[-200:]!r}")
            first = first or time.perf_counter() - begun
            events += part.count(b'"content":"') + part.count(b'"content": "')
            got = got[-64:] + part
            if got.endswith(b"\r\n0\r\n\r\n"):
                break
        if b"[DONE]" not in got:
            raise SystemExit(f"an answer without an end: {got[-300:]!r}")
        self.used = True
        return first, time.perf_counter() - begun, events

    def close(self) -> None:
        if self.streams:
            self.streams[1].close()


async def ask(server: Server, body: dict[str, Any]) -> tuple[float, float, int]:
    client = Client(server)
    try:
        return await client.ask(body)
    finally:
        client.close()


# Latency


async def thoughtful(server: Server, clients: int, seconds: float) -> list[float]:
    """Times of whole answers of clients who think before each request."""
    found: list[float] = []
    end = time.monotonic() + seconds
    body = {"messages": MESSAGES, "max_tokens": 16}

    async def one(seed: int) -> None:
        chance, client = random.Random(seed), Client(server)
        while time.monotonic() < end:
            await asyncio.sleep(chance.random() * 0.2)
            found.append((await client.ask(body))[1])
        client.close()

    await asyncio.gather(*(one(i) for i in range(clients)))
    return found


def latency(rounds: int) -> dict[str, Any]:
    from helpers.replay_engine import program

    with tempfile.TemporaryDirectory() as folder:
        path, model = program(folder), tiny(Path(folder))
        options = ("--parallel", 32, "--context", 256, "--llama-server", path)
        with (
            gateway(model, *options) as ours,
            engine(model, slots=32, context=256, threads=1, program=path) as alone,
        ):
            found: dict[str, list[float]] = {"ours": [], "alone": []}
            cpu, asked = 0.0, 0
            run(thoughtful(ours, 32, 2))
            for _ in range(rounds):
                before = ours.cpu()
                some = run(thoughtful(ours, 32, 4))
                cpu, asked = cpu + ours.cpu() - before, asked + len(some)
                found["ours"] += some
                found["alone"] += run(thoughtful(alone, 32, 4))
    cuts = {name: [1e3 * at(times, q) for q in (0.5, 0.99)] for name, times in found.items()}
    return {
        "requests": asked,
        "alone_ms": cuts["alone"],
        "gateway_ms": cuts["ours"],
        "added_p50_ms": cuts["ours"][0] - cuts["alone"][0],
        "added_p99_ms": cuts["ours"][1] - cuts["alone"][1],
        "cpu_ms_per_request": 1e3 * cpu / asked,
    }


def at(times: list[float], share: float) -> float:
    return sorted(times)[min(len(times) - 1, int(share * len(times)))]


def tiny(folder: Path) -> Path:
    """A GGUF to count memory by; the replay engine never opens it."""
    path = folder / "tiny.gguf"
    path.symlink_to(packages.smollm2_gguf())
    return path


# Throughput


async def busy(server: Server, streams: int, requests: int, tokens: int) -> float:
    """Tokens per second of so many streams that ask one after another."""
    left = iter(range(requests))
    count = 0

    async def one() -> None:
        nonlocal count
        client = Client(server)
        for i in left:
            messages = [{"role": "user", "content": f"{i}: {MESSAGES[0]['content']}"}]
            body = {
                "messages": messages,
                "max_tokens": tokens,
                "temperature": 0,
                "ignore_eos": True,
            }
            events = (await client.ask(body))[2]
            count += events
        client.close()

    begun = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(streams)))
    return count / (time.perf_counter() - begun)


def throughput(rounds: int) -> dict[str, Any]:
    rows: dict[str, Any] = {}
    model = packages.smollm2_gguf()
    for streams in (1, 8, 32):
        tokens = 384 if streams == 1 else 64
        options = ("--parallel", streams, "--context", 512, "--threads", 2)
        ours: list[float] = []
        alone: list[float] = []
        with (
            gateway(model, *options) as one,
            engine(model, slots=streams, context=512, threads=2) as other,
        ):
            run(busy(one, streams, streams, 8))
            run(busy(other, streams, streams, 8))
            for i in range(rounds):
                for which in (0, 1) if i % 2 else (1, 0):
                    server, found = ((one, ours), (other, alone))[which]
                    found.append(run(busy(server, streams, streams, tokens)))
        pairs = [a / b for a, b in zip(ours, alone, strict=True)]
        rows[str(streams)] = {
            "gateway": statistics.median(ours),
            "alone": statistics.median(alone),
            "ratio": statistics.median(pairs),
            "ratios": [round(p, 3) for p in pairs],
        }
    return rows


# Start


def start(rounds: int) -> dict[str, Any]:
    model = packages.smollm2_gguf()
    ours: list[float] = []
    alone: list[float] = []
    body = {"messages": MESSAGES, "max_tokens": 1}
    for _ in range(rounds):
        begun = time.perf_counter()
        with gateway(model, "--context", 256, "--parallel", 8) as server:
            run(ask(server, body))
            ours.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        with engine(model, slots=8, context=256, threads=2) as server:
            run(ask(server, body))
            alone.append(time.perf_counter() - begun)
    ratios = [a / b for a, b in zip(ours, alone, strict=True)]
    middle = statistics.median
    return {"gateway_s": middle(ours), "alone_s": middle(alone), "ratio": middle(ratios)}


# Engines of our own


def folders(kind: str, rounds: int, tokens: int = 48) -> dict[str, Any]:
    """Tokens per second of eight chats at a time, ÷ the library's own loop on eight sequences."""
    with tempfile.TemporaryDirectory() as base:
        folder = Path(base) / kind
        source: Path = packages.smollm2_gguf()
        if kind == "mlx":
            subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "kanna",
                    "convert",
                    source,
                    "-o",
                    Path(base) / "hf",
                    "--format",
                    "safetensors",
                    "--quiet",
                ],
                check=True,
                env=environment(),
            )
            code = f"from mlx_lm import convert; convert({str(Path(base) / 'hf')!r}, {str(folder)!r}, dtype='float32')"
            subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
        else:
            subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "kanna",
                    "convert",
                    source,
                    "-o",
                    folder,
                    "--preset",
                    "onnx:fp32",
                    "--quiet",
                ],
                check=True,
                env=environment(),
            )
        ours: list[float] = []
        theirs: list[float] = []
        with gateway(folder, "--parallel", 8, "--context", 256, "--threads", 2) as server:
            run(busy(server, 8, 8, 8))
            for _ in range(rounds):
                ours.append(run(busy(server, 8, 8, tokens)))
                module = "benchmarks.serve.library_loop"
                command = [sys.executable, "-m", module, kind, str(folder), str(tokens)]
                done = subprocess.run(
                    command, check=True, capture_output=True, text=True, env=environment()
                )
                theirs.append(float(done.stdout.splitlines()[-1]))
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    middle = statistics.median
    return {"gateway": middle(ours), "reference": middle(theirs), "ratio": middle(ratios)}


def run(work: Any) -> Any:
    try:
        import uvloop
    except ImportError:
        return asyncio.run(work)
    return uvloop.run(work)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", default=CASES)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    for case in options.cases.split(","):
        if case in {"onnx", "mlx"}:
            found: Any = folders(case, options.rounds)
        else:
            found = {"latency": latency, "throughput": throughput, "start": start}[case](
                options.rounds
            )
        print(json.dumps({case: found}, indent=2), flush=True)


if __name__ == "__main__":
    main()
