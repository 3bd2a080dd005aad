"""GGUF: the container of llama.cpp (ggml docs/gguf.md)."""

from __future__ import annotations

from pathlib import Path

from kanna.encodings import Encoding
from kanna.formats.base import Format, StoredWeights
from kanna.formats.gguf.cursor import Strings
from kanna.formats.gguf.layout import Layout, layout
from kanna.formats.gguf.read import GGUFFile, is_gguf, read
from kanna.formats.gguf.write import plan_files, write
from kanna.formats.memory import (
    TOKEN_BYTES,
    RuntimeMemory,
    draft_cache_bytes,
    llama_cache_value,
    llama_on_demand,
    resident_buffer_bytes,
)
from kanna.formats.process_memory import ProcessMemory
from kanna.libllama import builds
from kanna.model import Model
from kanna.plan import gguf as presets

__all__ = [
    "FORMAT",
    "GGUFFile",
    "Layout",
    "Strings",
    "is_gguf",
    "layout",
    "plan_files",
    "read",
    "write",
]

# What its process holds for any model, see formats/process_memory.py.
_FIXED = 5_000_000
# What llama.cpp stores a second time in the order that AVX2 and NEON read; the file stays
# mapped (ggml's ggml-cpu/repack.cpp).
_REPACKED = ("q4_0", "q4_k", "iq4_nl")


def _opens(path: Path) -> bool:
    return path.is_file() and is_gguf(path)


def _carries(encoding: Encoding) -> bool:
    return encoding.ggml_type is not None


def _merges(model: Model) -> int:
    """Merges of a vocabulary, whose tokens are among the buffers."""
    return TOKEN_BYTES * len(model.meta("tokenizer.ggml.merges", ()))


def _copied(name: str, encoding: str, size: int) -> float:
    """Matrices of layers, but those that rows are looked up in."""
    return float(size) if encoding in _REPACKED and name.startswith("blk.") else 0.0


def _weights(path: Path) -> StoredWeights:
    return StoredWeights.of_tensors(read(path).tensors)


FORMAT = Format(
    name="gguf",
    title="GGUF",
    opens=_opens,
    carries=_carries,
    suffix=".gguf",
    runtime="llamacpp",
    runtime_title="llama.cpp",
    build=builds.in_use,
    presets=presets.PRESETS,
    default_preset=presets.DEFAULT,
    compared_presets=("Q8_0", "Q6_K", "Q4_K_M", "Q3_K_M", "Q2_K"),
    whole_presets={"bf16": "BF16", "f16": "F16"},
    canonical=presets.canonical,
    memory=RuntimeMemory(
        value_bytes=llama_cache_value,
        buffers=resident_buffer_bytes,
        on_demand=llama_on_demand,
        drafts=draft_cache_bytes,
        process=ProcessMemory(fixed=_FIXED, tokenizer=_merges, copied=_copied),
    ),
    weights=_weights,
    keeps_provenance=True,
)
