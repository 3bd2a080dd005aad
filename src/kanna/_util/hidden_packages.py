"""Packages that a library loads where it finds them, and a process of ours has no use for."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Generator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec

BESIDE_TRANSFORMERS = (
    "tensorflow",
    "jax",
    "flax",
    "scipy",
    "sklearn",
    "torchvision",
    "torchaudio",
    "peft",
)
"""What transformers loads where it is, and neither a config nor a decoder has a use for."""


QUANTIZERS = ("torchao", "bitsandbytes")
"""The same, of which a model in float32 has no use."""
UNUSED_BY_MLX = (*BESIDE_TRANSFORMERS, "torch")
"""mlx-lm takes tokenizers from transformers, which loads torch where it is: 1.6 s, and 180 MB."""


def hide(*names: str) -> None:
    """Let nothing in this process find these packages when it looks whether they are here.

    For good: only a process of its own calls it, where it starts.

    Args:
        names: As they are imported.
    """
    find = importlib.util.find_spec

    def search(name: str, package: str | None = None) -> ModuleSpec | None:
        return None if name.partition(".")[0] in names else find(name, package)

    importlib.util.find_spec = search


@contextmanager
def left_out(*names: str) -> Generator[None]:
    """While it lasts, importing these packages fails, as where they are not installed.

    Args:
        names: As they are imported; those that are loaded already stay.
    """
    absent = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # pyright: ignore[reportCallIssue, reportArgumentType]
    try:
        yield
    finally:
        for name in absent:
            sys.modules.pop(name, None)
