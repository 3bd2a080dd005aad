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
    RuntimeMemory,
    buffer_bytes,
    draft_cache_bytes,
    llama_cache_value,
    llama_on_demand,
)
from kanna.libllama import builds
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


def _opens(path: Path) -> bool:
    return path.is_file() and is_gguf(path)


def _carries(encoding: Encoding) -> bool:
    return encoding.ggml_type is not None


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
        buffers=buffer_bytes,
        on_demand=llama_on_demand,
        drafts=draft_cache_bytes,
    ),
    weights=_weights,
    keeps_provenance=True,
)
