"""Jobs in the rows of a decoder: which row each is in, and what happens in a step."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

from kanna.model import F32
from kanna.serving.engines._jobs import AdapterScales, GeneratedToken, GenerationJob
from kanna.serving.engines._rows import PREFILL, RowDecoder, score
from kanna.serving.engines._sampler import TokenSampler

_Output = tuple[GenerationJob, "GeneratedToken | Exception"]


class RowScheduler:
    """Jobs in the rows of a decoder.

    The first rows generate; the row after them is the one whose prompt is being read.
    """

    def __init__(self, decoder: RowDecoder, slots: int) -> None:
        self._decoder, self.slots = decoder, slots
        self.vocab_size, self.context = decoder.vocab_size, decoder.context
        self._waiting: deque[GenerationJob] = deque()
        self._generating: list[GenerationJob] = []
        self._last_ids: list[int] = []  # of each generating job, the token not yet read
        self._reading: GenerationJob | None = None
        self._tokens_read = 0

    @property
    def pending(self) -> int:
        """Jobs under way or waiting."""
        return len(self._waiting) + len(self._generating) + (self._reading is not None)

    def add(self, job: GenerationJob) -> None:
        """Take a job in, to begin when there is a row."""
        job.state = TokenSampler(job)
        self._waiting.append(job)

    def remove(self, job: GenerationJob) -> None:
        """Forget a job, wherever it stands; the last generating row moves into its place."""
        if job in self._waiting:
            self._waiting.remove(job)
        elif job is self._reading:
            self._reading = None
            self._decoder.end(len(self._generating))
        elif job in self._generating:
            row, last = self._generating.index(job), len(self._generating) - 1
            self._decoder.move(last, row)
            if self._reading is not None:
                self._decoder.move(last + 1, last)
            self._decoder.end(self._decoder.active - 1)
            self._generating[row], self._last_ids[row] = (
                self._generating[last],
                self._last_ids[last],
            )
            self._generating.pop()
            self._last_ids.pop()

    def step(self) -> list[_Output]:
        """One token of each generating job, then at most PREFILL tokens of prompts."""
        outputs: list[_Output] = []
        if self._generating:
            logits = self._decoder.step(self._last_ids)
            for i, job in enumerate(self._generating):
                token = _choose(job, logits[i])
                if isinstance(token, GeneratedToken):
                    self._last_ids[i] = token.id
                outputs.append((job, token))
            for job, token in outputs:
                if _ends(token):
                    self.remove(job)
        budget = PREFILL
        while budget > 0 and (job := self._next_prompt()):
            count, token = self._read_prompt(job, budget)
            budget -= count
            if token:
                outputs.append((job, token))
        return outputs

    def _next_prompt(self) -> GenerationJob | None:
        """The job whose prompt is being read; the next one begins when there is a row for it."""
        if self._reading is None and self._waiting and len(self._generating) < self.slots:
            job = self._waiting.popleft()
            self._reading, self._tokens_read = job, 0
            self._decoder.begin(job.adapters)
        return self._reading

    def _read_prompt(
        self, job: GenerationJob, limit: int
    ) -> tuple[int, GeneratedToken | Exception | None]:
        """Read up to `limit` tokens of a prompt.

        Returns:
            How many were read, and the first generated token, or the error that ended the job, when
            that was the whole prompt.
        """
        ids = job.ids[self._tokens_read : self._tokens_read + limit]
        logits = self._decoder.read(len(self._generating), ids, 1)
        self._tokens_read += len(ids)
        if self._tokens_read < len(job.ids):
            return len(ids), None
        self._reading = None
        token = _choose(job, logits[-1].copy())
        self._generating.append(job)
        self._last_ids.append(token.id if isinstance(token, GeneratedToken) else 0)
        if _ends(token):
            self.remove(job)
        return len(ids), token

    def score(self, ids: Sequence[int], adapters: AdapterScales = ()) -> Iterator[F32]:
        """Logits after each of `ids`, in blocks: f32 [positions, vocab_size]."""
        return score(self._decoder, ids, adapters)


def _choose(job: GenerationJob, logits: F32) -> GeneratedToken | Exception:
    """The next token of a job; what goes wrong with it ends that job alone."""
    try:
        return job.state.choose(logits)
    except Exception as error:
        return error


def _ends(token: GeneratedToken | Exception) -> bool:
    return isinstance(token, Exception) or bool(token.finish_reason)
