"""Encodings of MLX, ONNX and OpenVINO, one scale per group of values or per row.

Each file is a kind, and exports all of it as ENCODINGS.
"""

from __future__ import annotations

from functools import cache

from kanna._util import plugins
from kanna.encodings.base import Encoding
from kanna.encodings.grouped import affine, nbits, nf4


@cache
def _all() -> dict[str, Encoding]:
    kinds = (
        plugins.load(__name__, kind, "ENCODINGS") for kind in plugins.names(__name__, "ENCODINGS")
    )
    return {encoding.name: encoding for kind in kinds for encoding in kind}


def names() -> list[str]:
    """Names of all grouped encodings."""
    return list(_all())


def get(name: str) -> Encoding | None:
    """The grouped encoding called `name`, or None.

    UnsupportedError when a kind has no such width or group.
    """
    encoding = _all().get(name)
    if encoding is None:
        for kind in (affine, nbits, nf4):
            kind.parse(name)
    return encoding
