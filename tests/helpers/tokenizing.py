"""Tokenizers of llama.cpp and of Hugging Face folders."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any


def llama_tokenizer(path: Path) -> Callable[[str], list[int]]:
    """Tokenizer of stock llama.cpp on a vocabulary-only GGUF.

    Adds what the model adds, parses special tokens.
    """
    from kanna.runtimes.llamacpp import library

    lib = library()
    params = lib.llama_model_default_params()
    params.vocab_only = True
    model = lib.llama_model_load_from_file(str(path).encode(), params)
    assert model, f"llama.cpp does not load {path}"
    vocab = lib.llama_model_get_vocab(model)

    def ids(text: str) -> list[int]:
        data = text.encode()
        tokens = (ctypes.c_int32 * (4 * len(data) + 32))()
        add_special = parse_special = True
        arguments = (len(data), tokens, len(tokens), add_special, parse_special)
        count = lib.llama_tokenize(vocab, data, *arguments)
        return list(tokens[:count])

    return ids


def folder_source(folder: Path, config: dict[str, Any] | None = None) -> Any:
    return SimpleNamespace(
        kind="hf",
        path=folder,
        name=folder.name,
        config=config or {},
        files={p.name: p for p in folder.iterdir()},
    )
