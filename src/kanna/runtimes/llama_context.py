"""Parameters of a context of llama.cpp for one text at a time."""

from __future__ import annotations

from typing import Any

from kanna.runtimes import cache_types

_SCORED_BATCH, _PROMPT_BATCH = 4096, 2048
"""Tokens that llama.cpp takes at once for the logits of a text, and of a prompt."""
_COMPUTED = 512
"""Tokens that it computes at once."""


def context_parameters(
    lib: Any,
    context: int,
    outputs: int,
    threads: int,
    cache: str,
    *,
    scores: bool,
    whole: bool,
) -> Any:
    """What `llama_init_from_model` is given.

    Args:
        lib: libllama.
        context: Tokens.
        outputs: Rows of logits that it has room for.
        threads: Threads to use.
        cache: Types of keys and values.
        scores: Whether it is made for the logits of texts, else for generating.
        whole: Whether a batch is computed at once: the tokens of a picture see each other.
    """
    params = lib.llama_context_default_params()
    params.n_ctx = context
    params.n_batch = min(context, _SCORED_BATCH if scores else _PROMPT_BATCH)
    params.n_ubatch = params.n_batch if whole else min(params.n_batch, _COMPUTED)
    params.n_outputs_max = min(outputs, params.n_batch)
    params.n_threads = params.n_threads_batch = threads
    params.swa_full = False
    cache_types.apply(params, cache)
    return params
