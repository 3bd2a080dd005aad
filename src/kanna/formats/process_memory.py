"""What a runtime's process holds beside weights, cache and buffers of activations.

Measured by `python -m benchmarks.hardware.predictions --memory`, in processes that fill a context;
see docs/benchmarks/hardware.md. The interpreter and the libraries that are imported before an
artefact is opened are not counted, as `bench` does not count them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from kanna.model import Model

_PIECE_BYTES = 390
"""What Hugging Face's tokenizers keep of a token or of a merge."""
_MERGES_OF_A_TOKEN = 2
"""Merges of a SentencePiece vocabulary, whose GGUF names none."""


def no_copy(_name: str, _encoding: str, _size: int) -> float:
    """Of a runtime that multiplies weights where they lie."""
    return 0.0


def no_tokenizer(_: Model) -> int:
    """Of a runtime whose vocabulary is among its buffers."""
    return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessMemory:
    """A runtime's own share.

    Attributes:
        fixed: Bytes that any model costs: code that is run, threads, pools.
        layer: Bytes that every layer of a decoder costs: nodes of its graph, and their kernels.
        tokenizer: Bytes of the tokenizer of a model.
        copied: Bytes that a tensor takes beside those that are stored, by its name, encoding and
            stored bytes: in the order that kernels read, or as another type.
    """

    fixed: int = 0
    layer: int = 0
    tokenizer: Callable[[Model], int] = no_tokenizer
    copied: Callable[[str, str, int], float] = no_copy

    def bytes_of(self, model: Model, tensors: Iterable[tuple[str, str, int]]) -> int:
        """All of it.

        Args:
            model: What is run.
            tensors: Name, encoding and bytes of what is stored.
        """
        copies = sum(self.copied(*tensor) for tensor in tensors)
        layers = model.whole("{arch}.block_count", 0)
        return self.fixed + self.layer * layers + self.tokenizer(model) + int(copies)


def tokenizer_bytes(model: Model) -> int:
    """Bytes of the tokenizer that folders are read with.

    Args:
        model: With the metadata of its vocabulary.
    """
    tokens = len(model.meta("tokenizer.ggml.tokens", ()))
    merges = len(model.meta("tokenizer.ggml.merges", ())) or _MERGES_OF_A_TOKEN * tokens
    return _PIECE_BYTES * (tokens + merges)
