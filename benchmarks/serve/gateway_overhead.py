"""The gateway beside the engine it stands in front of.

The same build, the same options, alternating, medians.

    python -m benchmarks.serve.gateway_overhead                   # every case
    python -m benchmarks.serve.gateway_overhead --cases latency

latency
    32 clients and an engine that answers at once, 16 events a request, up to 0.2 s of thought in
    between: what the gateway adds to a request, and the CPU time it takes for one.
throughput
    1, 8 and 32 streaming chats at a time with SmolLM2-135M in Q4_1: tokens per second, gateway ÷
    engine alone.
start
    From the command to the first token, gateway ÷ engine alone.
onnx, mlx
    8 chats at a time with SmolLM2-135M in float32 ÷ the loop of the library, eight at a time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.serve import servers
from benchmarks.serve.servers import MESSAGES, Client, Server, engine, gateway, run

from kanna.sources import packages


async def answer_times(server: Server, clients: int, seconds: float) -> list[float]:
    """Seconds of whole answers of clients who think before each request."""
    times: list[float] = []
    end = time.monotonic() + seconds
    body = {"messages": MESSAGES, "max_tokens": 16}

    async def ask_repeatedly(seed: int) -> None:
        chance, client = random.Random(seed), Client(server)
        while time.monotonic() < end:
            await asyncio.sleep(chance.random() * 0.2)
            times.append((await client.ask(body)).whole)
        client.close()

    await asyncio.gather(*(ask_repeatedly(i) for i in range(clients)))
    return times


def latency(rounds: int) -> dict[str, Any]:
    """What the gateway adds to a request, in ms, and its CPU time."""
    ours: list[float] = []
    alone: list[float] = []
    cpu = 0.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        program = servers.replay_program(folder)
        model = folder / "tiny.gguf"  # to count memory by; the replay engine never opens it
        model.symlink_to(packages.smollm2_gguf())
        options = ("--parallel", 32, "--context", 256, "--llama-server", program)
        with (
            gateway(model, *options) as server,
            engine(model, slots=32, context=256, threads=1, program=program) as bare,
        ):
            run(answer_times(server, 32, 2))
            for _ in range(rounds):
                before = server.cpu()
                ours += run(answer_times(server, 32, 4))
                cpu += server.cpu() - before
                alone += run(answer_times(bare, 32, 4))
    our_ms, bare_ms = ([1e3 * quantile(t, q) for q in (0.5, 0.99)] for t in (ours, alone))
    return {
        "requests": len(ours),
        "alone_ms": bare_ms,
        "gateway_ms": our_ms,
        "added_p50_ms": our_ms[0] - bare_ms[0],
        "added_p99_ms": our_ms[1] - bare_ms[1],
        "cpu_ms_per_request": 1e3 * cpu / len(ours),
    }


def quantile(values: list[float], share: float) -> float:
    """The value below which so large a share of all lies."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


async def tokens_per_second(server: Server, streams: int, requests: int, tokens: int) -> float:
    """Of so many streams that ask one after another."""
    numbers = iter(range(requests))
    count = 0

    async def ask_in_turn() -> None:
        nonlocal count
        client = Client(server)
        for i in numbers:
            body = {
                "messages": [{"role": "user", "content": f"{i}: {MESSAGES[0]['content']}"}],
                "max_tokens": tokens,
                "temperature": 0,
                "ignore_eos": True,
            }
            answer = await client.ask(body)
            count += answer.events
        client.close()

    begun = time.perf_counter()
    await asyncio.gather(*(ask_in_turn() for _ in range(streams)))
    return count / (time.perf_counter() - begun)


def throughput(rounds: int) -> dict[str, Any]:
    """Tokens per second by number of streams."""
    rows: dict[str, Any] = {}
    model = packages.smollm2_gguf()
    for streams in (1, 8, 32):
        tokens = 384 if streams == 1 else 64
        options = ("--parallel", streams, "--context", 512, "--threads", 2)
        ours: list[float] = []
        alone: list[float] = []
        with (
            gateway(model, *options) as server,
            engine(model, slots=streams, context=512, threads=2) as bare,
        ):
            run(tokens_per_second(server, streams, streams, 8))
            run(tokens_per_second(bare, streams, streams, 8))
            sides = ((server, ours), (bare, alone))
            for i in range(rounds):
                for side, speeds in sides if i % 2 else reversed(sides):
                    speeds.append(run(tokens_per_second(side, streams, streams, tokens)))
        ratios = [a / b for a, b in zip(ours, alone, strict=True)]
        rows[str(streams)] = {
            "gateway": median(ours),
            "alone": median(alone),
            "ratio": median(ratios),
            "ratios": [round(ratio, 3) for ratio in ratios],
        }
    return rows


def start(rounds: int) -> dict[str, Any]:
    """Seconds from the command to the first token."""
    model = packages.smollm2_gguf()
    ours: list[float] = []
    alone: list[float] = []
    body = {"messages": MESSAGES, "max_tokens": 1}
    for _ in range(rounds):
        begun = time.perf_counter()
        with gateway(model, "--context", 256, "--parallel", 8) as server:
            run(servers.ask(server, body))
            ours.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        with engine(model, slots=8, context=256, threads=2) as server:
            run(servers.ask(server, body))
            alone.append(time.perf_counter() - begun)
    ratios = [a / b for a, b in zip(ours, alone, strict=True)]
    return {"gateway_s": median(ours), "alone_s": median(alone), "ratio": median(ratios)}


def onnx(rounds: int) -> dict[str, Any]:
    """ONNX, beside the loop of onnxruntime-genai."""
    with tempfile.TemporaryDirectory() as base:
        folder = Path(base) / "onnx"
        source = packages.smollm2_gguf()
        servers.convert(source, folder, "--preset", "onnx:fp32")
        return beside_library("onnx", folder, rounds)


def mlx(rounds: int) -> dict[str, Any]:
    """MLX, beside mlx-lm's loop."""
    with tempfile.TemporaryDirectory() as base:
        source, folder = Path(base) / "hf", Path(base) / "mlx"
        servers.convert(packages.smollm2_gguf(), source, "--format", "safetensors")
        how = f"{str(source)!r}, {str(folder)!r}, dtype='float32'"
        code = f"from mlx_lm import convert; convert({how})"
        subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
        return beside_library("mlx", folder, rounds)


def beside_library(kind: str, folder: Path, rounds: int, tokens: int = 48) -> dict[str, Any]:
    """Tokens per second of eight chats at a time, ÷ the library's own loop on eight sequences."""
    ours: list[float] = []
    theirs: list[float] = []
    module = "benchmarks.serve.library_loop"
    command = [sys.executable, "-m", module, kind, str(folder), str(tokens)]
    options = ("--parallel", 8, "--context", 256, "--threads", 2)
    with gateway(folder, *options) as server:
        run(tokens_per_second(server, 8, 8, 8))
        for _ in range(rounds):
            ours.append(run(tokens_per_second(server, 8, 8, tokens)))
            output = subprocess.check_output(command, text=True, env=servers.environment())
            theirs.append(float(output.splitlines()[-1]))
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return {"gateway": median(ours), "reference": median(theirs), "ratio": median(ratios)}


CASES: dict[str, Callable[[int], dict[str, Any]]] = {
    "latency": latency,
    "throughput": throughput,
    "start": start,
    "onnx": onnx,
    "mlx": mlx,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    for case in options.cases.split(","):
        print(json.dumps({case: CASES[case](options.rounds)}, indent=2), flush=True)


if __name__ == "__main__":
    main()
