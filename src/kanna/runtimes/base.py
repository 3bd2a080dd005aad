"""The contract of a runtime: whether it is installed here, and how it opens an artefact."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from kanna.errors import UsageError
from kanna.model import F32


def require_context(context: int) -> None:
    """Raise UsageError for a context, in tokens, that no folder can be opened with."""
    if context < 0:
        raise UsageError(f"a context of {context} tokens", expected="0 (as trained) or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class Availability:
    """Whether a runtime can be used here, and how well it was built.

    Attributes:
        ok: Whether it can be used.
        version: Of its packages.
        build: Facts of the build, for example {"native": False, "missing": ["AVX512"], "features":
            […]}.
        backends: Devices it can compute on, for example ["CPU", "CUDA"].
        how_to_install: Command that installs it, or installs a better build.
        remark: What is missing, or could be better.
    """

    ok: bool
    version: str = ""
    build: dict[str, Any] = field(default_factory=dict[str, Any])
    backends: list[str] = field(default_factory=list[str])
    how_to_install: str = ""
    remark: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON has it."""
        return asdict(self)


@dataclass(slots=True, kw_only=True)
class GenerationStats:
    """Figures of one generation.

    Attributes:
        prompt_tokens: Tokens of the prompt.
        reused_tokens: Of those, how many were in the cache already.
        prompt_seconds: Time to read the prompt.
        first_token_seconds: Time from the prompt to the first new token.
        tokens: New tokens.
        seconds: Time of the new tokens after the first.
        reason: Why it ended: `eog` (an end-of-generation token), `stop`, `length` or `context`.
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
        """Tokens of the prompt read per second, without those that were in the cache."""
        return (
            (self.prompt_tokens - self.reused_tokens) / self.prompt_seconds
            if self.prompt_seconds
            else 0.0
        )

    @property
    def tps(self) -> float:
        """Tokens per second after the first token, which comes with the prompt."""
        return (self.tokens - 1) / self.seconds if self.seconds and self.tokens > 1 else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the next token is picked from its logits, in llama.cpp's order of steps.

    Attributes:
        temperature: 0 takes the likeliest token each time.
        seed: Of the random choices; None: another one each time.
        top_k: Tokens to pick from at most; 0: all.
        top_p: Pick from the likeliest tokens that together have this much of the probability.
        min_p: Drop tokens less likely than this share of the likeliest one.
    """

    temperature: float = 0.0
    seed: int | None = None
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05

    def __post_init__(self) -> None:
        """Raises UsageError where a value cannot be meant: NaN passes every other comparison."""
        bounds = {"temperature": math.inf, "top_k": math.inf, "top_p": 1.0, "min_p": 1.0}
        for name, highest in bounds.items():
            value = getattr(self, name)
            if not (0 <= value <= highest and math.isfinite(value)):
                upper = "up" if math.isinf(highest) else "to 1"
                raise UsageError(f"{name} is {value}", expected=f"a number from 0 {upper}")


GREEDY = Sampling()
"""The likeliest token each time."""


class Engine(Protocol):
    """A loaded artefact. A context manager; after `close` no method may be called.

    Attributes:
        path: The artefact.
        context: Tokens of prompt and answer together that it has room for.
        threads: Threads it computes with.
        vocab_size: Columns of the logits.
        trained_context: Tokens the model was trained on; 0 where the artefact does not say.
        bos: Id of the token that begins a text, if the model has one.
        eos: Id of the token that ends a text, if the model has one.
        adds_bos: Whether `tokenize(add_bos=True)` puts `bos` first.
        chat_template: Jinja source, if the artefact carries one.
        last: Figures of the last generation.
    """

    path: Path
    context: int
    threads: int
    vocab_size: int
    trained_context: int
    bos: int | None
    eos: int | None
    adds_bos: bool
    chat_template: str | None
    last: GenerationStats

    def tokenize(self, text: str, *, add_bos: bool = False, special: bool = False) -> list[int]:
        """Token ids of a text.

        Args:
            text: Any text.
            add_bos: Add the tokens that the model's texts begin and end with.
            special: Read `<|im_start|>` and the like as tokens, not as text.
        """
        ...

    def detokenize(self, ids: Sequence[int], *, special: bool = False) -> str:
        """Text of token ids, with special tokens where `special`; broken UTF-8 becomes U+FFFD."""
        ...

    def logits(self, ids: Sequence[int], *, first: int = 0, copy: bool = True) -> F32:
        """Logits after each of `ids`, from position `first`: f32 [len(ids) - first, vocab_size].

        Computed from an empty cache. Without `copy` the array may be the runtime's own buffer,
        valid until the next call. Raises UsageError when the ids do not fit the context.
        """
        ...

    def generate(
        self,
        ids: Sequence[int],
        *,
        max_tokens: int = 128,
        sampling: Sampling = GREEDY,
        stop: Sequence[str] = (),
        ignore_eog: bool = False,
    ) -> Iterator[str]:
        """Continue `ids`, yielding text as it comes; figures are in `last` when it ends.

        A prompt that starts like the last one reuses that part of the cache. Raises UsageError
        when the prompt does not fit the context.

        Args:
            ids: The prompt.
            max_tokens: New tokens at most.
            sampling: How each token is picked.
            stop: Texts that end the answer.
            ignore_eog: Go on after a token that ends a generation.
        """
        ...

    def eog(self, token: int) -> bool:
        """Whether a token ends a generation."""
        ...

    def memory(self) -> dict[str, int]:
        """Bytes by purpose: weights, kv, compute, output."""
        ...

    def close(self) -> None:
        """Free the model; may be called twice."""
        ...

    def __enter__(self) -> Engine: ...

    def __exit__(self, *exc: object) -> None: ...


class Runtime(Protocol):
    """What runs artefacts of one kind.

    Attributes:
        name: As its module, or its entry point, is named.
        title: As people write it.
        summary: What it is, in a line.
        extra: The extra of kanna that installs it; "" for none.
        has_thread_setting: Whether `open` can limit threads; otherwise a bench confines the process
            to as many processors.
        slow_on_cpu: Whether a prompt is read at a few tokens a second without an accelerator:
            artefacts are then evaluated by the values they hold, in the runtime of the reference.
        is_reference: Whether it runs sources as they are, in float32: an artefact of it is proved
            in llama.cpp, as the GGUF in float32 that it makes.

    It may have `unneeded`, too: packages that its libraries load where they are installed, and that
    it has no use for. A process that runs it alone does without them.
    """

    name: str
    title: str
    summary: str
    extra: str
    has_thread_setting: bool
    slow_on_cpu: bool
    is_reference: bool

    def opens(self, path: Path) -> bool:
        """Whether an artefact is of the kind this runtime loads, by its name or its files."""
        ...

    def trained_context(self, path: Path) -> int | None:
        """Tokens the model at `path` was trained on, from headers; None where it does not say."""
        ...

    def available(self) -> Availability:
        """Whether it is installed here. Never raises."""
        ...

    def load(self) -> object:
        """Import its libraries, once per process. Raises MissingError."""
        ...

    def open(
        self,
        path: str | Path,
        *,
        context: int = 4096,
        threads: int | None = None,
        gpu_layers: int | None = None,
    ) -> Engine:
        """Load an artefact.

        Args:
            path: A file or folder that `opens` takes.
            context: Tokens of prompt and answer together; 0: as many as the model was trained on.
            threads: None: one per physical core.
            gpu_layers: Layers to put on a GPU, for runtimes that can; None: the runtime's choice.

        Raises:
            MissingError: The runtime is not installed here.
            FormatError: The artefact cannot be loaded.
            UsageError: The context is negative.
        """
        ...


@runtime_checkable
class TakesAdapters(Protocol):
    """A runtime that computes a model together with LoRA adapters."""

    def open_adapted(
        self,
        path: str | Path,
        adapters: Mapping[str, float],
        *,
        context: int = 4096,
        threads: int | None = None,
    ) -> Engine:
        """Load an artefact as `Runtime.open` does, and adapters of it.

        Args:
            path: A file or folder that `opens` takes.
            adapters: Files with the scale of each; 1 is as trained.
            context: Tokens of prompt and answer together; 0: as many as the model was trained on.
            threads: None: one per physical core.

        Raises:
            FormatError: A file is no adapter, or one of another model.
        """
        ...


class SeeingEngine(Engine, Protocol):
    """A loaded artefact that reads pictures."""

    def generate_seeing(
        self,
        prompt: str,
        pictures: Sequence[bytes],
        *,
        max_tokens: int = 128,
        sampling: Sampling = GREEDY,
        stop: Sequence[str] = (),
    ) -> Iterator[str]:
        """Continue a prompt with pictures in it, yielding text as it comes.

        The figures in `last` count what pictures become among the tokens of the prompt.

        Args:
            prompt: It has `<__media__>` once for each picture.
            pictures: Files of pictures, in their order.
            max_tokens: New tokens at most.
            sampling: How each token is picked.
            stop: Texts that end the answer.

        Raises:
            FormatError: A picture cannot be decoded.
            UsageError: The prompt has another number of markers, or does not fit the context.
        """
        ...


@runtime_checkable
class TakesPictures(Protocol):
    """A runtime that computes a model of text together with a vision tower."""

    def open_seeing(
        self,
        path: str | Path,
        mmproj: str | Path,
        adapters: Mapping[str, float],
        *,
        context: int = 4096,
        threads: int | None = None,
    ) -> SeeingEngine:
        """Load an artefact as `Runtime.open` does, and its tower.

        Args:
            path: A file or folder that `opens` takes.
            mmproj: The file of the tower.
            adapters: LoRA adapters of the model of text, with the scale of each.
            context: Tokens of prompt and answer together; 0: as many as the model was trained on.
            threads: None: one per physical core.

        Raises:
            FormatError: A file is no tower, or one of another model.
        """
        ...


class Encoder(Protocol):
    """A loaded artefact that turns texts into vectors. A context manager."""

    def embed(self, texts: Sequence[str]) -> F32:
        """One vector of length 1 per text, f32 [texts, width], pooled as the artefact says."""
        ...

    def close(self) -> None:
        """Free the model; may be called twice."""
        ...

    def __enter__(self) -> Encoder: ...

    def __exit__(self, *exc: object) -> None: ...


@runtime_checkable
class MakesVectors(Protocol):
    """A runtime that turns texts into vectors."""

    def open_encoder(self, path: str | Path, *, threads: int | None = None) -> Encoder:
        """Load an artefact for its vectors.

        Args:
            path: A file or folder that `opens` takes.
            threads: None: one per physical core.

        Raises:
            FormatError: The artefact cannot be loaded, or gives no vectors.
        """
        ...
