"""GGUF: the container of llama.cpp (ggml docs/gguf.md)."""

from kanna.formats.gguf.layout import Layout, layout
from kanna.formats.gguf.read import GGUFFile, Strings, is_gguf, read
from kanna.formats.gguf.write import WriteResult, check_output, write

__all__ = [
    "GGUFFile",
    "Layout",
    "Strings",
    "WriteResult",
    "check_output",
    "is_gguf",
    "layout",
    "read",
    "write",
]
