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
_NONE = 0


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
    # A text is pooled within one batch.
    longest = max(len(ids) for ids in texts)
    params.n_ctx = params.n_batch = params.n_ubatch = longest
    params.n_outputs_max = longest
    params.embeddings = True
    params.pooling_type = _POOLING[pooling]
    context = _context(lib, model, params)
    if pooling == "model" and lib.llama_pooling_type(context) == _NONE:
        lib.llama_free(context)
        params.pooling_type = _POOLING["mean"]
        context = _context(lib, model, params)
    try:
        width = lib.llama_model_n_embd(model)
        return np.stack([_vector(lib, context, ids, width) for ids in texts])
    finally:
        lib.llama_free(context)


def _context(lib: Any, model: Any, params: Any) -> Any:
    LOG.clear()
    context = lib.llama_init_from_model(model, params)
    if not context:
        raise KannaError(
            f"llama.cpp cannot make a context for vectors of {params.n_ctx} tokens: {LOG.why()}",
            todo="give shorter texts",
        )
    return context


def _vector(lib: Any, context: Any, ids: Sequence[int], width: int) -> F32:
    lib.llama_memory_clear(lib.llama_get_memory(context), True)
    tokens = (ctypes.c_int32 * len(ids))(*ids)
    code = lib.llama_decode(context, lib.llama_batch_get_one(tokens, len(ids)))
    values = lib.llama_get_embeddings_seq(context, 0)
    if code or not values:
        raise KannaError(f"llama.cpp gives no vector (code {code}): {LOG.why()}")
    vector: F32 = np.ctypeslib.as_array(values, (width,)).astype(np.float32)
    return (vector / np.linalg.norm(vector)).astype(np.float32)
