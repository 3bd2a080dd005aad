"""The part of an engine shared by runtimes that only compute logits after more tokens."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from kanna.errors import UsageError
from kanna.model import F32
from kanna.runtimes.base import GREEDY, GenerationStats, Sampling
from kanna.runtimes.folder_text import FolderText
from kanna.runtimes.sampling import StopText, sampler

# Tokens per call while a prompt is read, as for llama.cpp: large enough for speed, small enough
# that Ctrl-C is heard.
PROMPT_BATCH = 512


class SteppedEngine(ABC):
    """A loaded folder; see `Engine`. A subclass gives `forward`, `rewind`, `memory` and `free`.

    Attributes:
        vocab_size: Columns of the logits.
        context: Tokens the cache has room for.
        rope_edge: Tokens beyond which all positions turn by other factors, those before too
            (Phi-3's long rope); 0: none. What was read on this side of it is read again on the
            other.
    """

    def __init__(
        self,
        path: Path,
        text: FolderText,
        *,
        vocab_size: int,
        trained_context: int,
        context: int,
        threads: int,
    ) -> None:
        self.path, self.text, self.threads = path, text, threads
        self.vocab_size, self.trained_context = vocab_size, trained_context
        self.context = min(context or trained_context or 4096, trained_context or context or 4096)
        self.bos, self.eos, self.adds_bos = text.bos, text.eos, text.adds_bos
        self.chat_template = text.chat_template
        self.last = GenerationStats()
        self.rope_edge = 0
        self._past: list[int] = []
        self._closed = False

    @abstractmethod
    def forward(self, ids: Sequence[int], keep: int) -> F32:
        """Read `ids` after what is in the cache; return the logits after the last `keep` of them.

        Returns:
            f32 [keep, vocab_size].
        """

    @abstractmethod
    def rewind(self, length: int) -> int:
        """Keep the first `length` tokens of the cache, or fewer; return how many it kept."""

    @abstractmethod
    def memory(self) -> dict[str, int]:
        """Bytes by purpose: weights, kv, compute, output."""

    @abstractmethod
    def free(self) -> None:
        """Let go of the model; called once."""

    def close(self) -> None:
        """Free the model; may be called twice."""
        if not self._closed:
            self._closed = True
            self.free()

    def __enter__(self) -> SteppedEngine:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def tokenize(self, text: str, *, add_bos: bool = False, special: bool = False) -> list[int]:
        """Token ids; see `Engine.tokenize`."""
        return self.text.tokenize(text, add_bos=add_bos, special=special)

    def detokenize(self, ids: Sequence[int], *, special: bool = False) -> str:
        """Text of token ids; broken UTF-8 becomes U+FFFD."""
        return self.text.detokenize(ids, special=special)

    def eog(self, token: int) -> bool:
        """Whether the token ends a generation."""
        return token in self.text.ends

    def _check(self, ids: Sequence[int]) -> None:
        if self._closed:
            raise UsageError(f"{self.path} is closed")
        if min(ids) < 0 or max(ids) >= self.vocab_size:
            raise UsageError(
                f"token ids {min(ids)} … {max(ids)}", expected=f"0 … {self.vocab_size - 1}"
            )

    def logits(self, ids: Sequence[int], *, first: int = 0, copy: bool = True) -> F32:
        """Logits from an empty cache, f32 [len(ids) - first, vocab_size]; see `Engine.logits`."""
        if not ids or not 0 <= first < len(ids):
            raise UsageError(
                f"{len(ids)} ids from position {first}", expected="at least one position to score"
            )
        self._check(ids)
        if len(ids) > self.context:
            raise UsageError(
                f"{len(ids)} tokens in a context of {self.context}",
                todo="open with a larger context",
            )
        self._past = list(ids[: self.rewind(0)])
        parts: list[F32] = []
        edges = self._edges(
            {*range(0, first, PROMPT_BATCH), *range(first, len(ids), PROMPT_BATCH), len(ids)}
        )
        for start, stop in zip(edges, edges[1:], strict=False):
            rows = self.forward(ids[start:stop], max(0, stop - max(start, first)))
            if len(rows):
                parts.append(rows)
        self._past = list(ids)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _edges(self, edges: set[int]) -> list[int]:
        """Where the reading of a text is cut: not before the rope's edge if it goes beyond it."""
        start, *rest = sorted(edges)
        return [start, *(e for e in rest if e > self.rope_edge or rest[-1] <= self.rope_edge)]

    def generate(
        self,
        ids: Sequence[int],
        *,
        max_tokens: int = 128,
        sampling: Sampling = GREEDY,
        stop: Sequence[str] = (),
        ignore_eog: bool = False,
    ) -> Iterator[str]:
        """Continue `ids`, yielding text as it comes; see `Engine.generate`."""
        if not ids:
            raise UsageError("an empty prompt", expected="at least one token")
        self._check(ids)
        if len(ids) >= self.context:
            raise UsageError(
                f"a prompt of {len(ids)} tokens in a context of {self.context}",
                todo="use a larger --context",
            )
        self.last = stats = GenerationStats(prompt_tokens=len(ids))
        pending = StopText(stop)
        tokens = self._tokens(list(ids), stats, sampler(sampling), max_tokens, ignore_eog)
        for piece in self.text.stream(ids, tokens):
            visible = pending.push(piece)
            if visible:
                yield visible
            if pending.stopped:
                stats.reason = "stop"
                return
        if rest := pending.rest():
            yield rest

    def _tokens(
        self,
        ids: list[int],
        stats: GenerationStats,
        pick: Callable[[F32], int],
        max_tokens: int,
        ignore_eog: bool,
    ) -> Iterator[int]:
        begin = time.perf_counter()
        stats.reused_tokens, row = self._read_prompt(ids)
        token = pick(row)
        prompt_end = time.perf_counter()
        stats.prompt_seconds = stats.first_token_seconds = prompt_end - begin
        while True:
            if not ignore_eog and self.eog(token):
                stats.reason = "eog"
                return
            stats.tokens += 1
            stats.seconds = time.perf_counter() - prompt_end
            full = len(self._past) >= self.context
            # Set before the token goes out, since the caller may stop there.
            stats.reason = "length" if stats.tokens >= max_tokens else "context" if full else ""
            yield token
            if stats.reason:
                return
            if len(self._past) == self.rope_edge:
                row = self._read_prompt([*self._past, token])[1]
            else:
                row = self.forward([token], 1)[0]
                self._past.append(token)
            token = pick(row)

    def _read_prompt(self, ids: list[int]) -> tuple[int, F32]:
        """Read a prompt; return how many tokens the cache had already, and the last logits."""
        keep = 0
        while keep < min(len(self._past), len(ids) - 1) and self._past[keep] == ids[keep]:
            keep += 1
        if (len(self._past) > self.rope_edge) != (len(ids) > self.rope_edge):
            keep = 0
        keep = self.rewind(keep)
        self._past = ids[:keep]
        row = np.empty(0, np.float32)
        edges = self._edges({*range(keep, len(ids), PROMPT_BATCH), len(ids)})
        for start, stop in zip(edges, edges[1:], strict=False):
            part = ids[start:stop]
            row = self.forward(part, 1)[0]
            self._past += part
        return keep, row
