"""Causal language models and tokenizers of transformers, read from a folder on this machine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kanna.errors import FormatError, UsageError
from kanna.evaluation.reference import reference_folder
from kanna.sources import Source


@contextmanager
def loading(folder: Path) -> Generator[None]:
    """Makes errors of transformers ours.

    Args:
        folder: What is read.
    """
    try:
        yield
    except (ImportError, ValueError, KeyError, OSError, RuntimeError, AssertionError) as error:
        raise FormatError(f"transformers cannot load {folder}: {error}"[:500]) from error


def load(folder: Path, device: str, *, exact: bool = False) -> Any:
    """A model as floats, not yet on its device: bfloat16 for CUDA, else float32.

    Args:
        folder: A Hugging Face folder.
        device: Where it will run.
        exact: Whether it is float32 there too, as weights that are trained must be.
    """
    import torch
    import transformers

    dtype = torch.bfloat16 if device == "cuda" and not exact else torch.float32
    with loading(folder):
        return transformers.AutoModelForCausalLM.from_pretrained(
            str(folder), dtype=dtype, local_files_only=True, trust_remote_code=False
        )


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a folder."""
    import transformers

    with loading(folder):
        return transformers.AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )


def refuse_other_vocabulary(source: Source, tokenizer: Any, *, role: str, base: str) -> None:
    """Raise UsageError where a model has other tokens than the one that learns.

    Args:
        source: The model.
        tokenizer: That of the model that learns.
        role: What it is to that one, such as `teacher`.
        base: The name of that one.
    """
    theirs = load_tokenizer(reference_folder(source))
    if fingerprint(theirs) == fingerprint(tokenizer):
        return
    sizes = [len(one.get_vocab()) for one in (theirs, tokenizer)]
    raise UsageError(
        f"the {role} {source.given} has another vocabulary ({sizes[0]:,} tokens) than "
        f"{base} ({sizes[1]:,} tokens): what it says is of other tokens",
        expected=f"a {role} whose tokenizer is the same",
        todo="take a model of the same family and release",
    )


def fingerprint(tokenizer: Any) -> str:
    """A hash of every token with its id.

    Args:
        tokenizer: That of transformers.
    """
    tokens = sorted(tokenizer.get_vocab().items())
    return hashlib.sha256(json.dumps(tokens).encode()).hexdigest()
