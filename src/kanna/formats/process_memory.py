"""What a runtime's process holds beside weights, cache and buffers of activations.

Measured by `python -m benchmarks.hardware.predictions --memory`, in processes that fill a context;
see docs/benchmarks/hardware.md. The interpreter and the libraries that are imported before an
artefact is opened are not counted, as `bench` does not count them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from kanna.model import Model

_PIECE_BYTES = 178
"""What Hugging Face's tokenizers keep of a token or of a merge, the text freed that they read."""
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
        opening: Bytes that any model costs while it is opened, when there is no cache yet.
        copied_opening: Bytes of a tensor, as of `copied`, at that time.
    """

    fixed: int = 0
    layer: int = 0
    tokenizer: Callable[[Model], int] = no_tokenizer
    copied: Callable[[str, str, int], float] = no_copy
    opening: int = 0
    copied_opening: Callable[[str, str, int], float] = no_copy

    def bytes_of(
        self, model: Model, tensors: Collection[tuple[str, str, int]], computing: int
    ) -> int:
        """All of it, while a text is read or while the model is opened: whichever is more.

        Args:
            model: What is run.
            tensors: Name, encoding and bytes of what is stored.
            computing: Bytes of the cache and of buffers, which are counted beside.
        """
        copies, opening = (
            int(sum(copied(*tensor) for tensor in tensors))
            for copied in (self.copied, self.copied_opening)
        )
        layers = model.whole("{arch}.block_count", 0)
        reading = self.fixed + self.layer * layers + copies
        return self.tokenizer(model) + max(reading, self.opening + opening - computing)


def tokenizer_bytes(model: Model) -> int:
    """Bytes of the tokenizer that folders are read with.

    Args:
        model: With the metadata of its vocabulary.
    """
    tokens = len(model.meta("tokenizer.ggml.tokens", ()))
    merges = len(model.meta("tokenizer.ggml.merges", ())) or _MERGES_OF_A_TOKEN * tokens
    return _PIECE_BYTES * (tokens + merges)
