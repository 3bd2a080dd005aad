"""What an engine is: it says whether it runs an artefact and what that takes, and runs it in a child process.

A child listens on a port of the loopback interface, wants the internal key as a bearer token on every request, and
answers `/health`, `/v1/chat/completions`, `/v1/completions`, `/tokenize`, `/detokenize`, `/apply-template` for one
choice of one prompt, and `/slots` and `/props` as llama.cpp's server does. The role `embed` answers `/v1/embeddings`;
`score` answers `/score`: {"prompt": text or ids, "top": k} → {"tokens": [{"text", "logprob", "top": [[text, logprob],
…]}, …]}, one per token, the first without logprob.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

TOO_LONG = "exceed_context_size_error"
"""Type of the error of an engine whose context is too small for a prompt.

Llama.cpp's name for it.
"""
GENERATE, EMBED, SCORE = "generate", "embed", "score"


@dataclass(slots=True, kw_only=True)
class EngineConfig:
    """What a child is told on its standard input.

    Attributes:
        name: Public name of the model, as it stands in answers.
        role: `generate`, `embed` or `score`.
        key: Internal key, known to the gateway alone.
        context: Tokens per slot.
        slots: Requests computed together.
    """

    engine: str
    path: str
    name: str
    role: str = GENERATE
    key: str = ""
    context: int = 4096
    slots: int = 8
    threads: int | None = None
    gpu_layers: int | None = None
    draft: str | None = None
    adapters: list[str] = field(default_factory=list[str])
    program: str | None = None

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> EngineConfig:
        return cls(**json.loads(text))


@dataclass(slots=True, kw_only=True)
class Footprint:
    """Bytes a running engine takes: weights, key-value cache of all slots, working buffers."""

    weights: int
    cache: int
    buffers: int

    @property
    def total(self) -> int:
        return self.weights + self.cache + self.buffers


class Engine(Protocol):
    """One kind of artefact. Everything but `run` happens in the gateway and must not load a model.

    Attributes:
        roles: What it can do.
        apart: Those of them that take a process of their own beside the one that generates.
        extra: What installs its runtime.
        modules: What `run` imports in any case, so that a child can before it knows its artefact.
        forces_calls: Whether tool_choice `required` always gives calls; where not, the gateway sees
            to it.
    """

    name: str
    extra: str
    modules: tuple[str, ...]
    forces_calls: bool
    roles: tuple[str, ...]
    apart: tuple[str, ...]

    def accepts(self, path: Path) -> bool:
        """Whether the artefact is of this engine's kind, from its name and headers."""
        ...

    def missing(self) -> str:
        """What must be installed first; empty when all is here."""
        ...

    def footprint(self, config: EngineConfig) -> Footprint: ...

    def run(self, config: EngineConfig) -> None:
        """In the child: load, call `ready(port)`, serve until the process ends."""
        ...


_stdout: int | None = None


def guard_stdout() -> None:
    """Native libraries write to file descriptor 1, which is the line to the gateway.

    Send them to stderr.
    """
    import os

    global _stdout
    _stdout = os.dup(1)
    os.dup2(2, 1)


def ready(port: int, **facts: Any) -> None:
    """Tell the gateway that requests may come."""
    import os

    line = json.dumps({"port": port, **facts}) + "\n"
    if _stdout is None:
        sys.stdout.write(line)
        sys.stdout.flush()
    else:
        os.write(_stdout, line.encode())
