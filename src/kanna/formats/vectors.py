"""Models that make vectors or scores of texts, by the metadata of llama.cpp."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kanna.model import Model

NONE, MEAN, FIRST, LAST, RANK = 0, 1, 2, 3, 4
"""Numbers of `{arch}.pooling_type`: how the states of all tokens become one vector, or a score."""
KINDS = frozenset({NONE, MEAN, FIRST, LAST, RANK})
ENCODERS = frozenset(
    {
        "bert",
        "eurobert",
        "gemma-embedding",
        "jina-bert-v2",
        "jina-bert-v3",
        "llama-embed",
        "modern-bert",
        "neo-bert",
        "nomic-bert",
        "nomic-bert-moe",
        "t5encoder",
    }
)
"""Architectures whose tokens see what comes after them, in llama.cpp."""


def pooling(model: Model) -> int:
    """How a model pools; NONE where it does not say."""
    return model.whole("{arch}.pooling_type", NONE)


def encodes(model: Model) -> bool:
    """Whether its tokens see what comes after them: no token is predicted, and nothing cached."""
    return reads_both_ways(model.family, model.meta)


def makes_vectors(model: Model) -> bool:
    """Whether texts become vectors or scores in this model, and not further text."""
    return pooling(model) != NONE or encodes(model)


def ranks(model: Model) -> bool:
    """Whether a question and a text become a score in this model."""
    return pooling(model) == RANK


def reads_both_ways(arch: str, value: Callable[[str], Any]) -> bool:
    """As `encodes`.

    Args:
        arch: The architecture.
        value: Value of a key with `{arch}` for the architecture; None where it is absent.
    """
    pooled = value("{arch}.pooling_type") not in (None, NONE)
    return arch in ENCODERS or (pooled and value("{arch}.attention.causal") is False)
