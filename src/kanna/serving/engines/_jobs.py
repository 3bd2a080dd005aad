"""What an engine in Python computes.

Jobs in, tokens out, between an event loop and the thread that owns the model.
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
from kanna.serving.engines._scores import Scorer


@dataclass(slots=True, kw_only=True)
class Sampling:
    """How tokens are chosen.

    Penalties as OpenAI has them; `repetition` divides logits of what was said, 1 is none.
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
class Token:
    """One generated token; `end` is why it is the last (`stop`, `length`)."""

    id: int
    end: str = ""
    logprob: float = 0.0
    top: list[tuple[int, float]] = field(default_factory=list[tuple[int, float]])


@dataclass(slots=True, kw_only=True, eq=False)
class Job:
    """One prompt to continue.

    may come next (an llguidance matcher), or None.

    Attributes:
        top: How many of the likeliest tokens to name, None: none, and no log-probability.
        guide: What.
    """

    ids: list[int]
    sampling: Sampling
    max_tokens: int
    eog: frozenset[int]
    top: int | None = None
    guide: Any = None
    out: asyncio.Queue[Token | Exception] = field(
        default_factory=asyncio.Queue["Token | Exception"]
    )
    state: Any = None


class Batch(Protocol):
    """Sequences computed together; all of it in one thread."""

    vocab_size: int
    context: int

    @property
    def busy(self) -> int:
        """Jobs under way or waiting."""
        ...

    def add(self, job: Job) -> None: ...

    def remove(self, job: Job) -> None:
        """Forget a job, wherever it stands; none of that name is no error."""
        ...

    def step(self) -> list[tuple[Job, Token | Exception]]:
        """The next token of each job that has one.

        Those whose token has an `end`, or that failed, are forgotten.
        """
        ...

    def score(self, ids: Sequence[int]) -> Iterator[F32]:
        """Logits after each of `ids`, in parts: f32 [positions, vocab_size]."""
        ...


class Worker:
    """The thread. `make` loads the model in it; raises what `make` raises."""

    def __init__(self, make: Callable[[], Batch]) -> None:
        self._tasks: queue.SimpleQueue[Callable[[Batch], None]] = queue.SimpleQueue()
        self._made: Future[Batch] = Future()
        threading.Thread(target=self._run, args=(make,), daemon=True).start()
        batch = self._made.result()
        self.vocab_size, self.context = batch.vocab_size, batch.context
        self._loop: asyncio.AbstractEventLoop | None = None

    def submit(self, job: Job) -> None:
        self._loop = asyncio.get_running_loop()
        self._tasks.put(lambda batch: batch.add(job))

    def cancel(self, job: Job) -> None:
        self._tasks.put(lambda batch: batch.remove(job))

    async def score(
        self, ids: Sequence[int], text: Callable[[int], str], top: int
    ) -> list[dict[str, Any]]:
        done: Future[list[dict[str, Any]]] = Future()

        def work(batch: Batch) -> None:
            try:
                scorer = Scorer(ids, text, top)
                for rows in batch.score(ids):
                    scorer.rows(rows)
                done.set_result(scorer.tokens)
            except Exception as error:
                done.set_exception(error)

        self._tasks.put(work)
        return await asyncio.wrap_future(done)

    def _run(self, make: Callable[[], Batch]) -> None:
        try:
            batch = make()
        except BaseException as error:
            self._made.set_exception(error)
            return
        self._made.set_result(batch)
        while True:
            while not self._tasks.empty() or not batch.busy:
                self._tasks.get()(batch)
            tokens = batch.step()
            if tokens and self._loop:
                self._loop.call_soon_threadsafe(_deliver, tokens)


def _deliver(tokens: list[tuple[Job, Token | Exception]]) -> None:
    for job, token in tokens:
        job.out.put_nowait(token)
