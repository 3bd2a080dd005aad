"""Token ids by the tokenizer that a runtime reads from a folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenIds:
    """What a runtime's tokenizer makes of texts.

    Attributes:
        name: The runtime's library and its version.
        ids: Of each text.
        framed: Whether they have the tokens that begin and end a text.
    """

    name: str
    ids: list[list[int]]
    framed: bool


Reader = Callable[[Mapping[str, Path], Sequence[str]], TokenIds | str]
"""From the files of a folder by name and texts: their ids; why there are none, where there are not.

A reader of a format is asked about the folder that is written, before that has its name.
"""
