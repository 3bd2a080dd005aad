"""Memory of a process of llama.cpp with an artefact loaded for use, measured in a child process.

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
    """Bytes in addition to the weights.

    Attributes:
        loaded: Vocabulary and bookkeeping.
        kv: The cache, as llama.cpp allocates it.
        compute: Activations, as llama.cpp allocates them.
        output: Logits, as llama.cpp allocates them.
    """

    loaded: int
    kv: int
    compute: int
    output: int

    @property
    def total(self) -> int:
        """Their sum in bytes."""
        return self.loaded + self.kv + self.compute + self.output


@dataclass(frozen=True, slots=True, kw_only=True)
class Resident:
    """Memory of a process that runs an artefact.

    Attributes:
        peak: Bytes resident at most, less `interpreter`.
        interpreter: Bytes that the interpreter held before llama.cpp read the file.
    """

    peak: int
    interpreter: int


def overhead(path: Path, *, context: int, cache: str, threads: int | None = None) -> Overhead:
    """Memory that any artefact of this model takes in addition to its weights.

    The file at `path` is mapped, and hardly read. Raises MissingError without llama.cpp, KannaError
    for a type of cache that it cannot have for this model.
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
    """What the child process runs, for `overhead` and (with `full`) for `resident`."""
    from kanna.runtimes.llamacpp import RUNTIME

    RUNTIME.load()  # before memory is measured
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
        # Any tokens do: memory does not depend on them.
        ids = [1 + i % 97 for i in range(engine.context - 2)]
        list(engine.generate(ids, max_tokens=2, ignore_eog=True))
        return {"peak": memory()[1] - before, "interpreter": before}


if __name__ == "__main__":
    sys.exit(answer(measure))
