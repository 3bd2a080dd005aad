"""The tokenizer of mlx-lm: that of transformers, which goes by config.json too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from kanna.tokenizer.reference import read_by_library
from kanna.verification.folder_tokenizer.readings import TokenIds


def read(files: Mapping[str, Path], texts: Sequence[str]) -> TokenIds | str:
    """Ids of `texts`, framed as transformers frames a text; see `Reader`."""
    reading = read_by_library(files, texts)
    if isinstance(reading, str):
        return reading
    return TokenIds(name=f"{reading.name} ({reading.kind})", ids=reading.ids, framed=True)


READER = read
