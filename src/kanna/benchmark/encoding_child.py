"""Times of a few files that take turns, in a process of its own.

`python -m kanna.benchmark.encoding_child '{"paths": […], …}'` prints one JSON object.
"""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from typing import Any

from kanna._util.processes import answer

_START = 8
"""Tokens of the prompt before those that are timed."""
_PROMPTS = 2
"""Rounds in which prompts are read; they take long, and vary less."""
_SECONDS = 0.2
"""Of a round, where so much is needed."""
_TEXT = "The plane takes a shaving so thin that light passes through it. "


def measure(
    paths: list[str],
    prompts: list[bool],
    *,
    prompt: int,
    tokens: int,
    most: int,
    rounds: int,
    threads: int,
) -> dict[str, Any]:
    """Seconds per token by file and round: by the clock on the wall, and of the processors.

    Args:
        paths: The files.
        prompts: Of each, whether a prompt is timed, too.
        prompt: Its tokens.
        tokens: That are generated in a round at least.
        most: That are generated where they take less than _SECONDS.
        rounds: Every second one goes backwards.
        threads: Threads to use.
    """
    from kanna import runtimes
    from kanna.benchmark import CONTEXT_MARGIN
    from kanna.benchmark.child import confine

    runtime = runtimes.of(paths[0])
    if not runtime.has_thread_setting:
        confine(threads)
    runtime.load()

    times: dict[str, list[list[tuple[float, float]]]] = {
        kind: [[] for _ in paths] for kind in ("generation", "prompt")
    }
    context = prompt + most + CONTEXT_MARGIN
    with ExitStack() as stack:
        engines = [
            stack.enter_context(runtime.open(p, context=context, threads=threads, gpu_layers=0))
            for p in paths
        ]
        ids = engines[0].tokenize(_TEXT * (prompt // 8 + 2), add_bos=True)
        for engine in engines:
            list(engine.generate(ids[:_START], max_tokens=2, ignore_eog=True))
        each = _timed(engines[0], ids[:_START], 1 + tokens)[1] / tokens * threads
        tokens = max(tokens, min(most, int(_SECONDS / max(each, 1e-9))))
        for turn in range(rounds):
            order = range(len(engines)) if turn % 2 == 0 else reversed(range(len(engines)))
            for at in order:
                engine = engines[at]
                first = _timed(engine, ids[:_START], 1)
                whole = _timed(engine, ids[:_START], 1 + tokens)
                wall, own = (
                    (long - short) / tokens for long, short in zip(whole, first, strict=True)
                )
                times["generation"][at].append((wall, own))
                if prompts[at] and turn < _PROMPTS:
                    # It starts with another token each time: nothing is reused.
                    read = _timed(engine, [*ids[turn + 1 : turn + prompt], ids[0]], 1)
                    times["prompt"][at].append((read[0] / prompt, read[1] / prompt))
    return times


def _timed(engine: Any, ids: list[int], tokens: int) -> tuple[float, float]:
    """Seconds by the clock and of the processors until so many tokens are there."""
    wall, own = time.perf_counter(), time.process_time()
    list(engine.generate(ids, max_tokens=tokens, ignore_eog=True))
    return time.perf_counter() - wall, time.process_time() - own


if __name__ == "__main__":
    sys.exit(answer(measure))
