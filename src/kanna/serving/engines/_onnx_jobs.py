"""Jobs of the ONNX engine: which row each is in, and what happens in a step."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

from kanna.model import F32
from kanna.serving.engines._jobs import Job, Token
from kanna.serving.engines._onnx_batch import PREFILL, OnnxBatch
from kanna.serving.engines._sampler import Sampler


class OnnxJobs:
    """Jobs in the rows of an OnnxBatch.

    Those that generate first, after them the one whose prompt is being read.
    """

    def __init__(self, rows: OnnxBatch, slots: int) -> None:
        self._rows, self.slots = rows, slots
        self.vocab_size, self.context = rows.vocab_size, rows.context
        self._waiting: deque[Job] = deque()
        self._active: list[Job] = []
        self._next: list[int] = []  # of each active job, the token not yet read
        self._reading: Job | None = None
        self._read = 0

    @property
    def busy(self) -> int:
        return len(self._waiting) + len(self._active) + (self._reading is not None)

    def add(self, job: Job) -> None:
        self._waiting.append(job)

    def remove(self, job: Job) -> None:
        if job in self._waiting:
            self._waiting.remove(job)
        elif job is self._reading:
            self._reading = None
            self._rows.end(len(self._active))
        elif job in self._active:
            row, last = self._active.index(job), len(self._active) - 1
            self._rows.move(last, row)
            if self._reading is not None:
                self._rows.move(last + 1, last)
            self._rows.end(self._rows.active - 1)
            self._active[row], self._next[row] = self._active[last], self._next[last]
            self._active.pop()
            self._next.pop()

    def step(self) -> list[tuple[Job, Token | Exception]]:
        found: list[tuple[Job, Token | Exception]] = []
        if self._active:
            logits = self._rows.step(self._next)
            ended: list[Job] = []
            for i, job in enumerate(self._active):
                token = job.state.choose(logits[i])
                self._next[i] = token.id
                found.append((job, token))
                if token.end:
                    ended.append(job)
            for job in ended:
                self.remove(job)
        left = PREFILL
        while left > 0 and self._more():
            left -= self._read_on(left, found)
        return found

    def _more(self) -> bool:
        """Whether a prompt is being read; the next one is begun when there is a row for it."""
        if self._reading is None and self._waiting and len(self._active) < self.slots:
            self._begin(self._waiting.popleft())
        return self._reading is not None

    def _begin(self, job: Job) -> None:
        job.state = Sampler(job)
        self._reading, self._read = job, 0
        self._rows.begin()

    def _read_on(self, most: int, found: list[tuple[Job, Token | Exception]]) -> int:
        """Read up to `most` tokens of a prompt, and after its last its first token.

        How many were read.
        """
        job = self._reading
        assert job
        piece = job.ids[self._read : self._read + most]
        logits = self._rows.read(len(self._active), piece)
        self._read += len(piece)
        if self._read == len(job.ids):
            self._reading = None
            token = job.state.choose(logits[-1].copy())
            self._active.append(job)
            self._next.append(token.id)
            if token.end:
                self.remove(job)
            found.append((job, token))
        return len(piece)

    def score(self, ids: Sequence[int]) -> Iterator[F32]:
        return self._rows.score(ids)
