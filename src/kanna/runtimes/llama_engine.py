"""A GGUF loaded in llama.cpp: logits of every position, and generation at native speed."""

from __future__ import annotations

import codecs
import ctypes
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from kanna.errors import KannaError, UsageError
from kanna.formats.gguf import purpose
from kanna.model import F32
from kanna.runtimes import llama_batch, llama_sampler
from kanna.runtimes._llama_log import LOG
from kanna.runtimes.base import GREEDY, GenerationStats, Sampling
from kanna.runtimes.llama_adapters import LoraAdapters
from kanna.runtimes.llama_context import context_parameters
from kanna.runtimes.llama_embeddings import Pooling, embed, rank
from kanna.runtimes.llama_model import LlamaModel, model_parameters
from kanna.runtimes.llama_tower import LlamaTower
from kanna.runtimes.sampling import StopText

# Tokens per llama_decode while a prompt is read: large enough for speed, small enough that Ctrl-C
# is heard.
_PROMPT_BATCH = 512

# A context with room for so few rows of logits generates as well, after the text it scored.
_FEW_ROWS = 64

# Stands in the list of past tokens for those of a picture: no prompt goes on from there.
_SEEN = -1


class LlamaEngine(LlamaModel):
    """One model with one context at a time; see `Engine`.

    The context is made when it is first needed, for scoring (room for the logits of a whole batch)
    or for generating (room for one row of logits only: with 262k tokens of vocabulary the
    difference is 0.5 GB).

    Attributes:
        devices: Address of an array of ggml's devices that alone are used; None: all.
        observer: Address of what ggml calls before each operator.
    """

    devices: int | None = None
    observer: int | None = None

    def __init__(
        self,
        lib: Any,
        path: Path,
        *,
        context: int,
        threads: int,
        gpu_layers: int | None = None,
        vocab_only: bool = False,
        cache: str = "f16",
        mmap: bool = True,
    ) -> None:
        params = model_parameters(
            lib, gpu_layers=gpu_layers, vocab_only=vocab_only, mmap=mmap, devices=self.devices
        )
        super().__init__(lib, path, params)
        self.threads, self._cache = threads, cache
        self.context = context or self.trained_context or 4096
        self._ctx: Any = None
        self._ctx_mode = ""
        self._outputs = 0
        self._past: list[int] = []
        self._tower: LlamaTower | None = None
        self.last = GenerationStats()
        self._adapters = LoraAdapters(lib, self._model, {})

    # Contexts

    def _use(self, mode: str, outputs: int = 1) -> Any:
        """The context for `score` (with room for `outputs` rows of logits) or `generate`.

        Raises KannaError when there is no memory for it.
        """
        if self._model is None:
            raise UsageError(f"{self.path} is closed")
        fits = self._ctx_mode == mode or (mode == "generate" and self._outputs <= _FEW_ROWS)
        if self._ctx is not None and fits and outputs <= self._outputs:
            return self._ctx
        if not self._ctx_mode:  # the first context for text
            purpose.require_text(self.path)
        self._free_context()
        whole, scores = self._tower is not None, mode == "score"
        params = context_parameters(
            self._lib, self.context, outputs, self.threads, self._cache, scores=scores, whole=whole
        )
        params.cb_eval = self.observer
        LOG.clear()
        LOG.buffers.clear()
        ctx = self._lib.llama_init_from_model(self._model, params)
        if not ctx:
            raise KannaError(
                f"llama.cpp cannot make a context of {self.context} tokens for {self.path}: "
                f"{LOG.why()}",
                todo="try a smaller --context",
            )
        self._adapters.apply(ctx)
        self._ctx, self._ctx_mode, self._past, self._outputs = ctx, mode, [], outputs
        self._buffers = [b for b in LOG.buffers if b[1] != "weights"]
        self._n_batch: int = self._lib.llama_n_batch(ctx)
        return ctx

    def _free_context(self) -> None:
        if self._ctx is not None:
            self._lib.llama_free(self._ctx)
        self._ctx, self._ctx_mode, self._past = None, "", []

    def close(self) -> None:
        """Free the model; may be called twice."""
        self._free_context()
        if self._tower is not None:
            self._tower.close()
        self._tower = None
        super().close()

    def __enter__(self) -> LlamaEngine:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def adapt(self, adapters: Mapping[str, float]) -> None:
        """Compute with LoRA adapters, files with the scale of each, from now on."""
        self._free_context()
        self._adapters = LoraAdapters(self._lib, self._model, adapters)

    def look(self, mmproj: str | Path) -> None:
        """Read pictures with a vision tower from now on."""
        self._free_context()
        self._tower = LlamaTower(mmproj, self._model, self.threads)

    def embed(self, texts: Sequence[str], *, pooling: Pooling = "model") -> F32:
        """One vector of length 1 per text, f32 [texts, width]; see `llama_embeddings.embed`."""
        ids = [self.tokenize(text, add_bos=True) for text in texts]
        return embed(self._lib, self._model, ids, self._apart(ids), pooling)

    def rank(self, texts: Sequence[Sequence[int]]) -> F32:
        """The score of each text, given as ids; f32 [texts]; see `llama_embeddings.rank`."""
        return rank(self._lib, self._model, texts, self._apart(texts))

    def _apart(self, texts: Sequence[Sequence[int]]) -> Any:
        """Parameters of a context of its own for texts; frees the one that is open."""
        self._free_context()
        params = self._lib.llama_context_default_params()
        params.n_threads = params.n_threads_batch = self.threads
        if (longest := max(map(len, texts), default=0)) > self.context:
            raise UsageError(f"a text of {longest} tokens in a context of {self.context}")
        return params

    # Evaluation

    def logits(self, ids: Sequence[int], *, first: int = 0, copy: bool = True) -> F32:
        """Logits after each of `ids` from position `first`, f32 [len(ids) - first, vocab_size].

        Starts from an empty cache. With copy=False and one batch, the array is llama.cpp's own
        buffer: valid only until the next call. Raises UsageError when the ids do not fit the
        context.
        """
        if not ids or not 0 <= first < len(ids):
            raise UsageError(
                f"{len(ids)} ids from position {first}", expected="at least one position to score"
            )
        ctx = self._empty_for(ids, len(ids) - first)
        parts: list[F32] = []
        batch = self._lib.llama_batch_init(min(len(ids), self._n_batch), 0, 1)
        try:
            for start in range(0, len(ids), self._n_batch):
                stop = min(start + self._n_batch, len(ids))
                outputs = llama_batch.fill(batch, ids, start, stop, first)
                self._decode(ctx, batch)
                if outputs:
                    rows = self._rows(ctx, outputs)
                    alone = stop == len(ids) and not parts
                    parts.append(rows if alone and not copy else rows.copy())
        finally:
            self._lib.llama_batch_free(batch)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def logits_in_parts(
        self, ids: Sequence[int], *, part: int = 128, spans: Sequence[Sequence[int]] | None = None
    ) -> Iterator[F32]:
        """`logits` of every position, at most `part` of them at a time.

        Each array, f32 [≤ part, vocab_size], is llama.cpp's own buffer, valid until the next. A
        prompt that begins as the text goes on from there, where `part` is small. Raises UsageError
        when the ids do not fit the context.

        Args:
            ids: The text.
            part: Positions at a time.
            spans: Start and stop of what is given alone, in order; None: everything.
        """
        ctx, room = self._empty_for(ids, part), max(1, min(len(ids), self._n_batch))
        batch = self._lib.llama_batch_init(room, 0, 1)
        try:
            for start, stop, given in llama_batch.parts(len(ids), min(part, room), room, spans):
                outputs = llama_batch.fill(batch, ids, start, stop, start if given else stop)
                self._decode(ctx, batch)
                self._past = list(ids[:stop])
                if given:
                    yield self._rows(ctx, outputs)
        finally:
            self._lib.llama_batch_free(batch)

    def _empty_for(self, ids: Sequence[int], outputs: int) -> Any:
        """The context for scoring `ids`, with nothing in its cache."""
        self._check_ids(ids)
        ctx = self._use("score", outputs)
        if len(ids) > self._lib.llama_n_ctx(ctx):
            raise UsageError(
                f"{len(ids)} tokens in a context of {self.context}",
                todo="open with a larger context",
            )
        self._clear(ctx)
        return ctx

    def _clear(self, ctx: Any) -> None:
        self._lib.llama_memory_clear(self._lib.llama_get_memory(ctx), True)
        self._past = []

    def _rows(self, ctx: Any, count: int) -> F32:
        pointer = self._lib.llama_get_logits(ctx)
        return np.ctypeslib.as_array(pointer, shape=(count, self.vocab_size))

    def _decode(self, ctx: Any, batch: Any) -> None:
        LOG.clear()
        code = self._lib.llama_decode(ctx, batch)
        if code != 0:
            self._past = []
            raise KannaError(f"llama.cpp failed on {self.path} with code {code}: {LOG.why()}")

    # Generation

    def generate(
        self,
        ids: Sequence[int],
        *,
        max_tokens: int = 128,
        sampling: Sampling = GREEDY,
        stop: Sequence[str] = (),
        ignore_eog: bool = False,
    ) -> Iterator[str]:
        """Continue `ids`, yielding text as it comes; see `Engine.generate`.

        Sampling stays in llama.cpp: no logits come to Python.
        """
        if not ids:
            raise UsageError("an empty prompt", expected="at least one token")
        self._check_ids(ids)
        ctx = self._use("generate")
        self._require_room(len(ids), self._lib.llama_n_ctx(ctx))
        yield from self._written(
            len(ids),
            lambda: self._read_prompt(ctx, list(ids)),
            max_tokens,
            sampling,
            stop,
            ignore_eog,
        )

    def generate_seeing(
        self,
        prompt: str,
        pictures: Sequence[bytes],
        *,
        max_tokens: int = 128,
        sampling: Sampling = GREEDY,
        stop: Sequence[str] = (),
    ) -> Iterator[str]:
        """Continue a prompt with pictures in it; see `SeeingEngine.generate_seeing`."""
        if self._tower is None:
            raise UsageError(f"{self.path} was opened without a vision tower")
        ctx = self._use("generate")
        with ExitStack() as stack:
            pieces = stack.enter_context(self._tower.pieces(prompt, pictures))
            count = self._tower.tokens(pieces)
            self._require_room(count, self._lib.llama_n_ctx(ctx))
            yield from self._written(
                count, lambda: self._see(ctx, pieces, count), max_tokens, sampling, stop
            )

    def _see(self, ctx: Any, pieces: Any, count: int) -> int:
        """Decode a prompt with pictures into an empty cache."""
        assert self._tower is not None
        self._clear(ctx)
        self._tower.read(pieces, ctx, self._n_batch)
        self._past = [_SEEN] * count
        return 0

    @staticmethod
    def _require_room(count: int, limit: int) -> None:
        if count >= limit:
            raise UsageError(
                f"a prompt of {count} tokens in a context of {limit}",
                todo="use a larger --context",
            )

    def _written(
        self,
        prompt_tokens: int,
        read: Callable[[], int],
        max_tokens: int,
        sampling: Sampling,
        stop: Sequence[str],
        ignore_eog: bool = False,
    ) -> Iterator[str]:
        """The text after a prompt that `read` decodes; fills `last`."""
        self.last = stats = GenerationStats(prompt_tokens=prompt_tokens)
        pending = StopText(stop)
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for token in self._tokens(read, stats, sampling, max_tokens, ignore_eog):
            text = pending.push(decoder.decode(self.piece(token)))
            if text:
                yield text
            if pending.stopped:
                stats.reason = "stop"
                return
        if text := pending.push(decoder.decode(b"", final=True)) + pending.rest():
            yield text

    def _tokens(
        self,
        read: Callable[[], int],
        stats: GenerationStats,
        sampling: Sampling,
        max_tokens: int,
        ignore_eog: bool,
    ) -> Iterator[int]:
        """New tokens after the prompt that `read` decodes; fills `stats`."""
        ctx, sampler = self._ctx, llama_sampler.chain_of(self._lib, sampling)
        try:
            begin = time.perf_counter()
            stats.reused_tokens = read()
            token = self._lib.llama_sampler_sample(sampler, ctx, -1)
            prompt_end = time.perf_counter()
            stats.prompt_seconds = stats.first_token_seconds = prompt_end - begin
            last_token = (ctypes.c_int32 * 1)()
            batch = self._lib.llama_batch_get_one(last_token, 1)
            limit = self._lib.llama_n_ctx(ctx)
            while True:
                if not ignore_eog and self.eog(token):
                    stats.reason = "eog"
                    return
                stats.tokens += 1
                stats.seconds = time.perf_counter() - prompt_end
                yield token
                if stats.tokens >= max_tokens or len(self._past) >= limit:
                    stats.reason = "length" if stats.tokens >= max_tokens else "context"
                    return
                last_token[0] = token
                self._decode(ctx, batch)
                self._past.append(token)
                token = self._lib.llama_sampler_sample(sampler, ctx, -1)
        finally:
            self._lib.llama_sampler_free(sampler)

    def _read_prompt(self, ctx: Any, ids: list[int]) -> int:
        """Decode the prompt up to its last token; return how many tokens the cache had already."""
        memory = self._lib.llama_get_memory(ctx)
        keep = 0
        while keep < min(len(self._past), len(ids) - 1) and self._past[keep] == ids[keep]:
            keep += 1
        # A sliding window or a recurrent state cannot be rolled back: there, only a pure
        # continuation is reused.
        lib, model = self._lib, self._model
        fixed = lib.llama_model_n_swa(model) > 0 or lib.llama_model_is_recurrent(model)
        fixed = fixed or lib.llama_model_is_hybrid(model)
        if (fixed and keep < len(self._past)) or not lib.llama_memory_seq_rm(memory, 0, keep, -1):
            keep = 0
        if keep == 0:
            self._lib.llama_memory_clear(memory, True)
        self._past = ids[:keep]
        for start in range(keep, len(ids), _PROMPT_BATCH):
            part = ids[start : start + _PROMPT_BATCH]
            tokens = (ctypes.c_int32 * len(part))(*part)
            self._decode(ctx, self._lib.llama_batch_get_one(tokens, len(part)))
            self._past += part
        return keep

    # Facts

    def memory(self) -> dict[str, int]:
        """Bytes by purpose as llama.cpp allocated them: weights, kv, compute, output."""
        self._use(self._ctx_mode or "generate", 1)
        total: dict[str, int] = {"weights": 0, "kv": 0, "compute": 0, "output": 0}
        for _device, use, size in self._weights + self._buffers:
            total[use] += size
        return total
