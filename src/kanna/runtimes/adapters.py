"""LoRA adapters as people name them: a file, with its scale behind a colon."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from kanna._util.nearest import absent
from kanna.errors import NotFoundError, UsageError

AdapterChoice = str | Path | Sequence[str | Path] | Mapping[str, float] | None
"""`lora.gguf`, `lora.gguf:0.5`, several of them, or files with their scales."""
_EXPECTED = "FILE.gguf or FILE.gguf:SCALE, such as lora.gguf:0.5"


def scales(given: AdapterChoice) -> dict[str, float]:
    """Files with the scale of each; 1 is as trained.

    Raises:
        SourceError: A file is not there.
        UsageError: A scale is no finite number, or a file is named twice.
    """
    if given is None:
        return {}
    if isinstance(given, Mapping):
        pairs = [(str(path), float(scale)) for path, scale in given.items()]
    else:
        several = [given] if isinstance(given, str | Path) else given
        pairs = [_parse(str(one)) for one in several]
    named: dict[str, float] = {}
    for path, scale in pairs:
        if not Path(path).is_file():
            raise NotFoundError(f"the adapter {absent(path)}", expected=_EXPECTED)
        if not math.isfinite(scale):
            raise UsageError(f"the adapter {path} with the scale {scale}", expected=_EXPECTED)
        if path in named:
            raise UsageError(f"the adapter {path} is named twice", expected="each file once")
        named[path] = scale
    return named


def _parse(text: str) -> tuple[str, float]:
    path, colon, scale = text.rpartition(":")
    # A file may have a colon in its name, as all of them do on Windows.
    if not colon or Path(text).is_file():
        return text, 1.0
    try:
        return path, float(scale)
    except ValueError:
        return text, 1.0
