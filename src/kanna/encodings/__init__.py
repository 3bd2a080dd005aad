"""Encodings: how the values of a tensor are stored.

Each file of this folder is one of GGUF, under its own name.

Those of MLX, ONNX and OpenVINO come in widths and group sizes: each file of `grouped` is a whole
kind of them.
"""

from __future__ import annotations

from functools import cache

from kanna._util import plugins
from kanna.encodings import grouped
from kanna.encodings.base import Encoding
from kanna.errors import UnsupportedError

__all__ = ["Encoding", "by_ggml_type", "candidates", "get", "names"]

# Ids that ggml once used and took back; a file that carries one was written by a very old tool.
REMOVED = {
    4: "Q4_2",
    5: "Q4_3",
    31: "Q4_0_4_4",
    32: "Q4_0_4_8",
    33: "Q4_0_8_8",
    36: "IQ4_NL_4_4",
    37: "IQ4_NL_4_8",
    38: "IQ4_NL_8_8",
}


def names() -> list[str]:
    """Names of all encodings of GGUF, sorted."""
    return list(plugins.names(__name__, "ENCODING"))


def get(name: str) -> Encoding:
    """The encoding called `name` (any case), of any format.

    UnsupportedError names the known ones.
    """
    if encoding := grouped.get(name.lower()):
        return encoding
    return plugins.load(__name__, name.lower(), "ENCODING")


def candidates() -> tuple[str, ...]:
    """Names of the encodings that `kanna optimize` tries, in their order of search."""
    ranks = {name: get(name).search_order for name in names()}
    ranked = [(rank, name) for name, rank in ranks.items() if rank is not None]
    return tuple(name for _, name in sorted(ranked))


@cache
def _by_type() -> dict[int, Encoding]:
    return {e.ggml_type: e for e in map(get, names()) if e.ggml_type is not None}


def by_ggml_type(number: int) -> Encoding:
    """The encoding with ggml's type id `number`; UnsupportedError for removed and unknown ids."""
    encoding = _by_type().get(number)
    if encoding is None:
        label = REMOVED.get(number)
        raise UnsupportedError(
            f"ggml type {number} ({label}) was removed from ggml"
            if label
            else f"unknown ggml type {number}",
            expected="one of "
            + ", ".join(f"{e.ggml_type} ({e.label})" for e in _by_type().values()),
            todo="make the file again from the original model with a current tool",
        )
    return encoding
