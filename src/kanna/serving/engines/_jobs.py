"""Generation jobs of an engine written in Python, and what computes them together."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from kanna.model import F32
from kanna.serving.engines._grammar import Grammar

AdapterScales = tuple[tuple[int, float], ...]
"""Adapters that are switched on, by their place in the configuration, each with its scale."""


@dataclass(slots=True, kw_only=True)
class SamplingParameters:
    """How tokens are chosen.

    Attributes:
        seed: None: another one each time.
        frequency: OpenAI's frequency penalty.
        presence: OpenAI's presence penalty.
        repetition: Divides the logits of tokens that were generated already; 1 is none.
        bias: Added to the logit of a token, by its id.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    frequency: float = 0.0
    presence: float = 0.0
    repetition: float = 1.0
    bias: dict[int, float] = field(default_factory=dict[int, float])


@dataclass(slots=True, kw_only=True)
class GeneratedToken:
    """One generated token.

    Attributes:
        finish_reason: Why it is the last one (`stop`, `length`); empty: it is not.
        logprob: Natural log-probability, where the job asks for it.
        top: Ids and log-probabilities of the likeliest tokens in its place.
    """

    id: int
    finish_reason: str = ""
    logprob: float = 0.0
    top: list[tuple[int, float]] = field(default_factory=list[tuple[int, float]])


@dataclass(slots=True, kw_only=True, eq=False)
class GenerationJob:
    """One prompt to continue.

    Attributes:
        ids: The prompt.
        end_ids: Tokens that end the answer.
        top: How many of the likeliest tokens to name; None: none, and no log-probability.
        grammar: What may come next, or None.
        mark: By which the gateway knows it among the slots; 0: none.
        adapters: Those that answer it, of an engine that takes some.
        output: Tokens as they come, or the error that ended the job.
        state: The batch's own.
    """

    ids: list[int]
    sampling: SamplingParameters
    max_tokens: int
    end_ids: frozenset[int]
    top: int | None = None
    grammar: Grammar | None = None
    mark: int = 0
    adapters: AdapterScales = ()
    output: asyncio.Queue[GeneratedToken | Exception] = field(
        default_factory=asyncio.Queue["GeneratedToken | Exception"]
    )
    state: Any = None


class JobBatch(Protocol):
    """Jobs that a model computes together; all of it in one thread."""

    vocab_size: int
    context: int

    @property
    def pending(self) -> int:
        """Jobs under way or waiting."""
        ...

    def add(self, job: GenerationJob) -> None:
        """Take a job in, to begin when there is a slot."""
        ...

    def remove(self, job: GenerationJob) -> None:
        """Forget a job, wherever it stands; one that is not there is no error."""
        ...

    def step(self) -> list[tuple[GenerationJob, GeneratedToken | Exception]]:
        """The next token of each job that has one.

        Jobs that ended or failed are forgotten.
        """
        ...

    def score(self, ids: Sequence[int], adapters: AdapterScales) -> Iterator[F32]:
        """Logits after each of `ids`, in blocks: f32 [positions, vocab_size]."""
        ...
