"""Generation jobs of an engine written in Python.

Jobs go in and tokens come out, between an event loop and the thread that owns the model.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

from kanna.model import F32
from kanna.serving.engines._grammar import Grammar
from kanna.serving.engines._prompt_scorer import PromptScorer


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
        output: Tokens as they come, or the error that ended the job.
        state: The batch's own.
    """

    ids: list[int]
    sampling: SamplingParameters
    max_tokens: int
    end_ids: frozenset[int]
    top: int | None = None
    grammar: Grammar | None = None
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

    def score(self, ids: Sequence[int]) -> Iterator[F32]:
        """Logits after each of `ids`, in blocks: f32 [positions, vocab_size]."""
        ...


class Worker:
    """The thread that owns a model.

    Args:
        make: Loads the model in that thread; what it raises is raised here.
    """

    def __init__(self, make: Callable[[], JobBatch]) -> None:
        self._tasks: queue.SimpleQueue[Callable[[JobBatch], None]] = queue.SimpleQueue()
        self._loaded: Future[JobBatch] = Future()
        threading.Thread(target=self._run, args=(make,), daemon=True).start()
        batch = self._loaded.result()
        self.vocab_size, self.context = batch.vocab_size, batch.context
        self._loop: asyncio.AbstractEventLoop | None = None

    def submit(self, job: GenerationJob) -> None:
        """Begin a job; its tokens come in `job.output`."""
        self._loop = asyncio.get_running_loop()
        self._tasks.put(lambda batch: batch.add(job))

    def cancel(self, job: GenerationJob) -> None:
        """End a job early."""
        self._tasks.put(lambda batch: batch.remove(job))

    async def score(
        self, ids: Sequence[int], text_of: Callable[[int], str], top: int
    ) -> list[dict[str, Any]]:
        """Log-probabilities of a prompt's tokens, as `/score` answers them."""
        scores: Future[list[dict[str, Any]]] = Future()

        def compute(batch: JobBatch) -> None:
            try:
                scorer = PromptScorer(ids, text_of, top)
                for rows in batch.score(ids):
                    scorer.add(rows)
                scores.set_result(scorer.tokens)
            except Exception as error:
                scores.set_exception(error)

        self._tasks.put(compute)
        return await asyncio.wrap_future(scores)

    def _run(self, make: Callable[[], JobBatch]) -> None:
        try:
            batch = make()
        except BaseException as error:
            self._loaded.set_exception(error)
            return
        self._loaded.set_result(batch)
        while True:
            while not self._tasks.empty() or not batch.pending:
                self._tasks.get()(batch)
            tokens = batch.step()
            if tokens and self._loop:
                self._loop.call_soon_threadsafe(_deliver, tokens)


def _deliver(tokens: list[tuple[GenerationJob, GeneratedToken | Exception]]) -> None:
    for job, token in tokens:
        job.output.put_nowait(token)
