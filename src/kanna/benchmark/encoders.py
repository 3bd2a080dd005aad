"""One measurement of one encoder, in the child process of a bench."""

from __future__ import annotations

import time
from typing import Any

from kanna.benchmark.energy import EnergyMeter
from kanna.runtimes.onnx import RUNTIME


def measure(path: str, text: str, *, tokens: int, threads: int | None) -> dict[str, Any]:
    """Load an encoder and read `text`, cut to `tokens` tokens or to as many as it takes.

    The fields are those of other benches: `ttft_s` is the time until the vector is there, joules
    are per token read, and nothing is generated.
    """
    begin = time.perf_counter()
    with RUNTIME.open_encoder(path, threads=threads) as encoder:
        load = time.perf_counter() - begin
        whole = encoder.ids(text)
        ids = [*whole[: min(tokens, len(whole)) - 1], whole[-1]]
        encoder.hidden(ids[:16])
        warm_up = encoder.seconds
        encoder.hidden(ids)
        meter = EnergyMeter()
        encoder.hidden(ids)
        joules, seconds = meter.joules(), encoder.seconds
        return {
            "load_s": load,
            "first_use_s": load + warm_up,
            "ttft_s": seconds,
            "prompt_tps": len(ids) / seconds,
            "gen_tps": 0.0,
            "joules_per_token": None if joules is None else joules / len(ids),
            "energy": {"counted": meter.sources, "missing": meter.obstacles},
            "memory": encoder.memory(),
            "threads": encoder.threads,
        }
