"""Memory of a process that runs an artefact with its context full, measured in a child process.

`python -m kanna.benchmark.full_context '{"path": …}'` prints one JSON object. It is what `fit`
predicts: the artefact in its runtime, as kanna opens it, and every token of the context in the
cache.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from kanna._util.processes import answer, ask
from kanna.benchmark.child import confine, memory
from kanna.benchmark.resident import Resident


def full_context(path: Path, *, context: int, threads: int) -> Resident:
    """Memory of a process of the artefact's own runtime.

    Args:
        path: What is run.
        context: Tokens, which are all read.
        threads: That compute.

    Raises:
        KannaError: The measurement dies; it says of what.
    """
    task = {"path": str(path), "context": context, "threads": threads}
    return Resident(**ask("kanna.benchmark.full_context", task, f"filling {path}"))


def measure(path: str, *, context: int, threads: int) -> dict[str, Any]:
    """What the child process runs."""
    from kanna import runtimes

    runtime = runtimes.of(path)
    runtimes.hide_unneeded(runtime)
    if not runtime.has_thread_setting:
        confine(threads)
    runtime.load()  # libraries are loaded once, however large the artefact
    before, _ = memory()
    with runtime.open(path, context=context, threads=threads) as engine:
        engine.memory()  # makes the context
        # Any tokens do: memory does not depend on them.
        ids = [1 + i % 97 for i in range(engine.context - 2)]
        # A short text first, as in any process that goes on: some kernels are made for its length.
        list(engine.generate(ids[:8], max_tokens=2, ignore_eog=True))
        list(engine.generate(ids, max_tokens=2, ignore_eog=True))
        return {"peak": memory()[1] - before, "interpreter": before}


if __name__ == "__main__":
    sys.exit(answer(measure))
