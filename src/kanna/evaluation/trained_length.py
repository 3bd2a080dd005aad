"""How many tokens a model was trained on, held to a context before anything is read."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kanna import runtimes
from kanna._util.progress import Progress, remark
from kanna.errors import UsageError
from kanna.formats import gguf
from kanna.model import Model

_STRETCHED = ("linear", "yarn")
"""Scalings of rotations under which a model reads so many times its first length."""


def shorter_windows(trained: int) -> str:
    """What a remark says where windows are cut to what a model was trained on."""
    return f"the model was trained on {trained} tokens: windows of that length"


def tell_shorter_windows(paths: Sequence[Path], context: int, progress: Progress) -> None:
    """Say at once where windows will be shorter than asked for.

    Args:
        paths: What is scored, by its headers alone.
        context: Tokens of a window that are asked for.
        progress: Is shown the remark.
    """
    lengths = [length for path in paths if (length := runtimes.of(path).trained_context(path))]
    if lengths and min(lengths) < context:
        remark(progress, shorter_windows(min(lengths)))


def trained_length(model: Model) -> int:
    """Tokens that a model was trained on, its scaled rotations counted; 0: it does not say."""
    return _length(lambda key: model.meta(f"{{arch}}.{key}"))


def require_trained(path: Path, context: int | None) -> int:
    """The tokens that a GGUF was trained on, as `trained_length` has them.

    Args:
        path: The file.
        context: Tokens that are asked for; None: none were named.

    Raises:
        UsageError: They are more.
    """
    file = gguf.read(path)
    trained = _length(lambda key: file.value(f"{file.value('general.architecture')}.{key}"))
    if context is not None and 0 < trained < context:
        raise UsageError(
            f"a context of {context} tokens; {path.name} was trained on {trained}",
            expected=f"at most {trained}: what a model answers beyond says nothing of its cache",
            todo=f"give --context {trained}, or leave it out",
        )
    return trained


def _length(value: Callable[[str], Any]) -> int:
    trained = _number(value("context_length"))
    if value("rope.scaling.type") not in _STRETCHED:
        return int(trained)
    first = _number(value("rope.scaling.original_context_length")) or trained
    return int(max(trained, first * max(1.0, _number(value("rope.scaling.factor")))))


def _number(value: object) -> float:
    """A metadata value as a length or factor; 0 for what is none."""
    usable = isinstance(value, (int, float)) and math.isfinite(value) and 0 < value < 1e9
    return float(value) if usable and isinstance(value, (int, float)) else 0.0
