"""One measurement of one artefact, in a process of its own.

`python -m kanna.benchmark.child '{"path": …}'` prints one JSON object. Nothing else runs in this
process, so its peak memory is that of the artefact.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from kanna._util.processes import answer

# Ordinary prose, repeated to any length: what it says does not matter for speed.
_TEXT = (
    "The plane takes a shaving so thin that light passes through it, and the board beneath is a "
    "little flatter than before. A joiner reads the grain first, sets the iron, and only then "
    "begins; haste tears the wood. "
)


def memory() -> tuple[int, int]:
    """Bytes resident now, and at the highest so far."""
    try:
        with Path("/proc/self/status").open(encoding="ascii", errors="replace") as file:
            status = dict(line.split(":", 1) for line in file if ":" in line)
        return int(status["VmRSS"].split()[0]) * 1024, int(status["VmHWM"].split()[0]) * 1024
    except (OSError, KeyError):
        import psutil

        info = psutil.Process().memory_info()
        peak = getattr(info, "peak_wset", 0)
        if not peak:
            import resource

            # macOS counts bytes.
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return info.rss, max(peak, info.rss)


def confine(threads: int) -> None:
    """Confine this process to as many processors, where the system can."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def measure(
    path: str, *, prompt_tokens: int, gen_tokens: int, threads: int | None
) -> dict[str, Any]:
    """Load, read a prompt of `prompt_tokens`, generate `gen_tokens` after a short one."""
    from kanna import runtimes
    from kanna.benchmark import CONTEXT_MARGIN, encoders
    from kanna.benchmark.energy import EnergyMeter
    from kanna.formats.onnx import files
    from kanna.hardware.cpu import default_threads

    runtime = runtimes.of(path)
    if not runtime.has_thread_setting:
        confine(threads or default_threads())
    runtime.load()  # libraries are loaded once, however large the artefact
    before, _ = memory()
    if files.is_encoder(Path(path)):
        figures = encoders.measure(
            path, _TEXT * (prompt_tokens // 16 + 1), tokens=prompt_tokens, threads=threads
        )
        return figures | {"peak_bytes": memory()[1] - before, "interpreter_bytes": before}
    begin = time.perf_counter()
    with runtime.open(
        path, context=prompt_tokens + gen_tokens + CONTEXT_MARGIN, threads=threads
    ) as engine:
        ids = engine.tokenize(_TEXT * (prompt_tokens // 16 + 1), add_bos=True)[:prompt_tokens]
        memory_by_purpose = engine.memory()  # makes the context
        load = time.perf_counter() - begin
        begin = time.perf_counter()
        list(engine.generate(ids[:8], max_tokens=2, ignore_eog=True))
        warm_up = time.perf_counter() - begin
        # The first token differs from the warm-up's, so that nothing is reused from its cache.
        prompt = [*ids[1:], ids[1]]
        list(engine.generate(prompt, max_tokens=1, ignore_eog=True))
        read = engine.last
        meter = EnergyMeter()
        list(engine.generate(ids[:8], max_tokens=gen_tokens, ignore_eog=True))
        joules = meter.joules()
        wrote = engine.last
        return {
            "load_s": load,
            "first_use_s": load + warm_up,
            "ttft_s": read.first_token_seconds,
            "prompt_tps": read.prompt_tps,
            "gen_tps": wrote.tps,
            "joules_per_token": None if joules is None else joules / max(1, wrote.tokens),
            "energy": {"counted": meter.sources, "missing": meter.obstacles},
            "peak_bytes": memory()[1] - before,
            "interpreter_bytes": before,
            "memory": memory_by_purpose,
            "threads": engine.threads,
        }


def _alone(path: str, **options: Any) -> dict[str, Any]:
    from kanna import runtimes

    runtimes.hide_unneeded(runtimes.of(path))
    return measure(path, **options)


if __name__ == "__main__":
    sys.exit(answer(_alone))
