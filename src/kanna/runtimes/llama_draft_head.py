"""A model's own head for further tokens (MTP, NextN) in llama.cpp: what it guesses.

llama.cpp computes the head in a context of its own. Every token goes in with the state that the
model had before it; the head gives logits and a state, with which it can go on from its own guess.
As llama-server does, the first token goes in with zeros, and after a step what it had of its own
guesses is replaced by what the model wrote.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from kanna.errors import KannaError, MissingError, UsageError
from kanna.formats import gguf
from kanna.model import F32
from kanna.runtimes._llama_log import LOG
from kanna.runtimes.llama_model import LlamaModel, model_parameters

_DRAFTING = 1
"""LLAMA_CONTEXT_TYPE_MTP of llama.h."""
_F32 = 0
_TOKENS = ctypes.POINTER(ctypes.c_int32)
_SET = ("llama_set_embeddings_nextn", "_Z26llama_set_embeddings_nextnP13llama_contextbb")
_GET = ("llama_get_embeddings_nextn_ith", "_Z30llama_get_embeddings_nextn_ithP13llama_contexti")
"""Functions of llama-ext.h by their names in C, and in C++, as which they are built today."""


def require(path: Path) -> None:
    """Raise UsageError for a GGUF without a head, or with more than llama.cpp runs."""
    file = gguf.read(path)
    heads = file.value(f"{file.value('general.architecture')}.nextn_predict_layers", 0)
    if heads != 1:
        raise UsageError(
            f"{path} has {heads or 'no'} head{'s' if heads else ''} of its own for further tokens "
            "(nextn_predict_layers)",
            expected="one, as of Qwen3.5: a GGUF converted from a checkpoint with mtp.* tensors",
            todo="--draft FILE measures what a small model guesses",
        )


class LlamaDraftHead(LlamaModel):
    """A GGUF with a head for further tokens, and what that guesses of what the model writes.

    Args:
        lib: llama.cpp's functions.
        path: A GGUF.
        context: Tokens of prompt and text together.
        threads: Threads to use.
        exact: Keep keys and values in float32 and compute attention plainly.

    Raises:
        UsageError: The file has no such head, or more than llama.cpp runs.
        MissingError: This build of llama.cpp does not give the states of the head.
    """

    def __init__(
        self, lib: Any, path: Path, *, context: int, threads: int, exact: bool = False
    ) -> None:
        require(path)
        self._contexts: list[Any] = []
        self._set = _function(lib, _SET, None, (ctypes.c_void_p, ctypes.c_bool, ctypes.c_bool))
        self._get = _function(
            lib, _GET, ctypes.POINTER(ctypes.c_float), (ctypes.c_void_p, ctypes.c_int32)
        )
        params = model_parameters(lib)
        params.load_mtp = True
        super().__init__(lib, path, params)
        self.context, self.threads, self._exact = context, threads, exact
        self.width: int = lib.llama_model_n_embd(self._model)
        self._writing, self._drafting = self._open(0), self._open(_DRAFTING)

    def _open(self, kind: int) -> Any:
        params = self._lib.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = params.n_outputs_max = self.context
        params.n_threads = params.n_threads_batch = self.threads
        params.ctx_type = kind
        if self._exact:
            params.type_k = params.type_v = _F32
            params.flash_attn_type = 0
        LOG.clear()
        context = self._lib.llama_init_from_model(self._model, params)
        if not context:
            raise KannaError(
                f"llama.cpp makes no context for the head of {self.path}: {LOG.why()}",
                todo="--draft FILE measures what a small model guesses",
            )
        self._contexts.append(context)
        self._set(context, True, False)  # states of every token, whether it has logits or not
        return context

    def close(self) -> None:
        """Free the model; may be called twice."""
        for context in self._contexts:
            self._lib.llama_free(context)
        self._contexts = []
        super().close()

    def __enter__(self) -> LlamaDraftHead:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def write(self, prompt: Sequence[int], tokens: int) -> tuple[list[int], F32]:
        """What the model writes that always takes the likeliest token, whatever ends a text.

        Args:
            prompt: Token ids.
            tokens: How many are written.

        Returns:
            The ids of prompt and text, and the state of every token but the last, f32
            [tokens - 1, width].
        """
        self._check_ids(prompt)
        for context in self._contexts:  # of a text before
            self._lib.llama_memory_clear(self._lib.llama_get_memory(context), True)
        ids, states = list(prompt), []
        read = ids
        for _ in range(tokens):
            self._decode(self._writing, read, len(ids) - len(read))
            states.append(self._states(self._writing, len(read)))
            ids.append(self._likeliest(self._writing, len(read) - 1))
            read = ids[-1:]
        return ids, np.concatenate(states)

    def guesses(self, ids: Sequence[int], states: F32, first: int, ahead: int) -> list[int]:
        """Ids that the head guesses after `ids`, each after the one before.

        Args:
            ids: All tokens so far.
            states: The model's state of each but the last, f32 [len(ids) - 1, width].
            first: Position from which `ids` are new to the head.
            ahead: How many are guessed.
        """
        memory = self._lib.llama_get_memory(self._drafting)
        self._lib.llama_memory_seq_rm(memory, 0, first, -1)
        before = np.concatenate([np.zeros((1, self.width), np.float32), states])[first : len(ids)]
        self._decode(self._drafting, ids[first:], first, before)
        at, guessed = len(ids) - first - 1, [0] * 0
        while True:
            guessed.append(self._likeliest(self._drafting, at))
            if len(guessed) == ahead:
                return guessed
            state = self._state(self._drafting, at)[None].copy()
            self._decode(self._drafting, guessed[-1:], len(ids) + len(guessed) - 1, state)
            at = 0

    def _decode(
        self, context: Any, ids: Sequence[int], first: int, states: F32 | None = None
    ) -> None:
        """Read tokens from a position on, with the states before them in the context of a head."""
        width = 0 if states is None else self.width
        batch = self._lib.llama_batch_init(len(ids), width, 1)
        tokens = (ctypes.c_int32 * len(ids))(*ids)
        own = ctypes.cast(batch.token, ctypes.c_void_p).value or 0  # a copy: the field changes
        try:
            if states is not None:
                rows = np.ascontiguousarray(states, np.float32)
                ctypes.memmove(batch.embd, rows.ctypes.data, rows.nbytes)
            batch.token = ctypes.cast(tokens, _TOKENS)  # one with states has no room for them
            batch.n_tokens = len(ids)
            for i in range(len(ids)):
                batch.pos[i], batch.n_seq_id[i], batch.logits[i] = first + i, 1, 1
                batch.seq_id[i][0] = 0
            LOG.clear()
            code = self._lib.llama_decode(context, batch)
        finally:
            batch.token = ctypes.cast(own, _TOKENS)
            self._lib.llama_batch_free(batch)
        if code:
            raise KannaError(f"llama.cpp failed on {self.path} with code {code}: {LOG.why()}")

    def logits(self, at: int) -> F32:
        """Logits that the head gave last, after the token at `at` of what it read last."""
        return self._logits(self._drafting, at)

    def _logits(self, context: Any, at: int) -> F32:
        pointer = self._lib.llama_get_logits_ith(context, at)
        return np.ctypeslib.as_array(pointer, (self.vocab_size,))

    def _likeliest(self, context: Any, at: int) -> int:
        return int(self._logits(context, at).argmax())

    def _state(self, context: Any, at: int) -> F32:
        pointer = self._get(context, at)
        if not pointer:
            raise KannaError(f"llama.cpp gives no state of a token of {self.path}: {LOG.why()}")
        return np.ctypeslib.as_array(pointer, (self.width,))

    def _states(self, context: Any, tokens: int) -> F32:
        return np.stack([self._state(context, i).copy() for i in range(tokens)])


def _function(lib: Any, names: Sequence[str], result: Any, arguments: Any) -> Any:
    """A function by the first of its names that the library has; raises MissingError."""
    for name in names:
        with suppress(AttributeError):
            function = getattr(lib, name)
            function.restype, function.argtypes = result, arguments
            return function
    raise MissingError(
        f"this llama.cpp has no {names[0]}: it does not give the states of a model's own head",
        expected="a build from October 2026 on",
        todo="pip install --upgrade xllamacpp",
    )
