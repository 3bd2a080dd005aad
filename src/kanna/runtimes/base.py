"""What a runtime is: something that says whether it is here, and opens an artefact as an engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from kanna.model import F32


@dataclass(frozen=True, slots=True, kw_only=True)
class Availability:
    """Whether a runtime can be used here, and how well it was built.

    Attributes:
        build: Facts of the build, for example {"native": False, "missing": ["AVX512"], "features":
            […]}.
        backends: Devices it can compute on, for example ["CPU", "CUDA"].
        how_to_install: Command that installs it, or installs a better build.
    """

    ok: bool
    version: str = ""
    build: dict[str, Any] = field(default_factory=dict[str, Any])
    backends: list[str] = field(default_factory=list[str])
    how_to_install: str = ""
    remark: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(slots=True, kw_only=True)
class Generation:
    """Figures of the last generation.

    Seconds, token counts and why it ended (`eog`, `stop`, `length`, `context`).
    """

    prompt_tokens: int = 0
    reused_tokens: int = 0
    prompt_seconds: float = 0.0
    first_token_seconds: float = 0.0
    tokens: int = 0
    seconds: float = 0.0
    reason: str = ""

    @property
    def prompt_tps(self) -> float:
        return (
            (self.prompt_tokens - self.reused_tokens) / self.prompt_seconds
            if self.prompt_seconds
            else 0.0
        )

    @property
    def tps(self) -> float:
        """Tokens per second after the first token, which comes with the prompt."""
        return (self.tokens - 1) / self.seconds if self.seconds and self.tokens > 1 else 0.0


class Engine(Protocol):
    """A loaded artefact. A context manager; after `close` no method may be called."""

    path: Path
    vocab_size: int
    trained_context: int
    bos: int | None
    eos: int | None
    adds_bos: bool
    chat_template: str | None
    last: Generation

    def tokenize(self, text: str, *, add_bos: bool = False, special: bool = False) -> list[int]: ...

    def detokenize(self, ids: Sequence[int], *, special: bool = False) -> str: ...

    def logits(self, ids: Sequence[int], *, first: int = 0, copy: bool = True) -> F32:
        """Logits after each of `ids`, from position `first`: f32 [len(ids) - first, vocab_size]."""
        ...

    def generate(
        self,
        ids: Sequence[int],
        *,
        max_tokens: int = 128,
        temperature: float = 0.0,
        seed: int | None = None,
        stop: Sequence[str] = (),
        top_p: float = 0.95,
        ignore_eog: bool = False,
    ) -> Iterator[str]: ...

    def eog(self, token: int) -> bool:
        """Whether a token ends a generation."""
        ...

    def memory(self) -> dict[str, int]:
        """Bytes by purpose: weights, kv, compute, output."""
        ...

    def close(self) -> None: ...

    def __enter__(self) -> Engine: ...

    def __exit__(self, *exc: object) -> None: ...


class Runtime(Protocol):
    """One runtime; `open` raises MissingError when it is not here and FormatError for a file it cannot load.

    Attributes:
        extra: What installs it.
    """

    name: str
    extra: str

    def opens(self, path: Path) -> bool:
        """Whether an artefact is of the kind this runtime loads, by its name or the files in its folder."""
        ...

    def available(self) -> Availability: ...

    def open(
        self,
        path: str | Path,
        *,
        context: int = 4096,
        threads: int | None = None,
        gpu_layers: int | None = None,
    ) -> Engine: ...
