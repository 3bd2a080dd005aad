"""What a process of llama.cpp holds with an artefact loaded for use, measured in one of its own.

`python -m kanna.benchmark.resident '{"path": …}'` prints one JSON object. As in llama-server with
one slot: prompts in batches of 512 tokens, room for one row of logits.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kanna._util.peak_memory import anonymous_bytes
from kanna._util.processes import answer, ask
from kanna.benchmark.child import memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Overhead:
    """Bytes beside the weights.

    Loaded (vocabulary, bookkeeping), and as llama.cpp allocates kv, compute, output.
    """

    loaded: int
    kv: int
    compute: int
    output: int

    @property
    def total(self) -> int:
        return self.loaded + self.kv + self.compute + self.output


@dataclass(frozen=True, slots=True, kw_only=True)
class Resident:
    """peak: bytes resident at most, less what the interpreter held before llama.cpp read the file (`interpreter`)."""

    peak: int
    interpreter: int


def overhead(path: Path, *, context: int, cache: str, threads: int | None = None) -> Overhead:
    """What any artefact of this model takes beside its weights.

    The file at `path` is mapped, and hardly read.

    Raises MissingError without llama.cpp, KannaError for a cache that it cannot have for this
    model.
    """
    task = {
        "path": str(path),
        "context": context,
        "cache": cache,
        "threads": threads,
        "full": False,
    }
    return Overhead(**ask("kanna.benchmark.resident", task, f"loading {path}"))


def resident(path: Path, *, context: int, cache: str, threads: int | None = None) -> Resident:
    """Memory with the file read, not mapped, and every token of the context in the cache."""
    task = {"path": str(path), "context": context, "cache": cache, "threads": threads, "full": True}
    return Resident(**ask("kanna.benchmark.resident", task, f"loading {path}"))


def measure(
    path: str, *, context: int, cache: str, threads: int | None, full: bool
) -> dict[str, Any]:
    """The child's side of both."""
    from kanna.runtimes.llamacpp import RUNTIME

    RUNTIME.available()  # loads what is loaded once
    before, anonymous = memory()[0], anonymous_bytes()
    with RUNTIME.open(
        path, context=context, threads=threads, gpu_layers=0, cache=cache, mmap=not full
    ) as engine:
        loaded = anonymous_bytes() - anonymous
        parts = engine.memory()  # makes the context
        if not full:
            return {"loaded": max(0, loaded)} | {
                name: parts[name] for name in ("kv", "compute", "output")
            }
        # Any tokens do: what is resident does not depend on what they say.
        ids = [1 + i % 97 for i in range(engine.context - 2)]
        list(engine.generate(ids, max_tokens=2, ignore_eog=True))
        return {"peak": memory()[1] - before, "interpreter": before}


if __name__ == "__main__":
    sys.exit(answer(measure))
