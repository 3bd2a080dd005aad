"""Vectors of texts in llama.cpp."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from kanna.errors import KannaError, UsageError
from kanna.model import F32
from kanna.runtimes._llama_log import LOG

Pooling = Literal["model", "mean", "first", "last"]
"""How the states of all tokens become one vector; `model` is what the file says, else the mean."""
# llama_pooling_type of llama.h; -1 is the file's own, 0 is none.
_POOLING: dict[Pooling, int] = {"model": -1, "mean": 1, "first": 2, "last": 3}
_NONE, _RANK = 0, 4


def embed(
    lib: Any, model: Any, texts: Sequence[Sequence[int]], params: Any, pooling: Pooling
) -> F32:
    """One vector of length 1 per text, f32 [texts, width].

    Args:
        lib: llama.cpp's functions.
        model: A model.
        texts: Token ids of each.
        params: Parameters of a context, as for generating; its sizes become those of the texts.
        pooling: How the states of all tokens become one vector.

    Raises:
        UsageError: A text has no token.
        KannaError: llama.cpp refuses, or has no memory.
    """
    if pooling not in _POOLING:
        raise UsageError(f"pooling {pooling!r}", expected=" or ".join(_POOLING))
    if not texts or not all(texts):
        raise UsageError("a text without tokens", expected="at least one token in every text")
    _fit(params, texts)
    params.pooling_type = _POOLING[pooling]
    context = _context(lib, model, params)
    if pooling == "model" and lib.llama_pooling_type(context) == _NONE:
        lib.llama_free(context)
        params.pooling_type = _POOLING["mean"]
        context = _context(lib, model, params)
    try:
        width = lib.llama_model_n_embd(model)
        rows = np.stack([_values(lib, context, ids, width) for ids in texts])
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    finally:
        lib.llama_free(context)


def rank(lib: Any, model: Any, texts: Sequence[Sequence[int]], params: Any) -> F32:
    """The score of each text, a question and what may answer it, f32 [texts].

    Args:
        lib: llama.cpp's functions.
        model: A model that ranks.
        texts: Token ids of each.
        params: Parameters of a context; its sizes become those of the texts.

    Raises:
        UsageError: A text has no token.
        KannaError: llama.cpp refuses, or has no memory.
    """
    if not texts or not all(texts):
        raise UsageError("a text without tokens", expected="at least one token in every text")
    _fit(params, texts)
    params.pooling_type = _RANK
    context = _context(lib, model, params)
    try:
        return np.array([_values(lib, context, ids, 1)[0] for ids in texts], np.float32)
    finally:
        lib.llama_free(context)


def _fit(params: Any, texts: Sequence[Sequence[int]]) -> None:
    """A context in which the longest text is one batch, as pooling needs it."""
    params.n_ctx = params.n_batch = params.n_ubatch = max(len(ids) for ids in texts)
    params.n_outputs_max = params.n_ctx
    params.embeddings = True


def _context(lib: Any, model: Any, params: Any) -> Any:
    LOG.clear()
    context = lib.llama_init_from_model(model, params)
    if not context:
        raise KannaError(
            f"llama.cpp cannot make a context for vectors of {params.n_ctx} tokens: {LOG.why()}",
            todo="give shorter texts",
        )
    return context


def _values(lib: Any, context: Any, ids: Sequence[int], width: int) -> F32:
    lib.llama_memory_clear(lib.llama_get_memory(context), True)
    tokens = (ctypes.c_int32 * len(ids))(*ids)
    code = lib.llama_decode(context, lib.llama_batch_get_one(tokens, len(ids)))
    values = lib.llama_get_embeddings_seq(context, 0)
    if code or not values:
        raise KannaError(f"llama.cpp gives no vector (code {code}): {LOG.why()}")
    return np.ctypeslib.as_array(values, (width,)).astype(np.float32)
