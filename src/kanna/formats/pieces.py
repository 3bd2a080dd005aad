"""Pieces of a file: how large each is, and its hash, so that files share those that are equal."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kanna._util.typed import TypedObject, listed, text, whole
from kanna.errors import FormatError
from kanna.formats.text_files import parse_json

KIND = "kanna.pieces/1"
MOST = 400_000
_LARGEST_READ = 16 << 20
_HASH = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FilePieces:
    """The pieces of a file, one after another.

    Attributes:
        sizes: Bytes of each.
        hashes: SHA-256 of each, hexadecimal.
    """

    sizes: tuple[int, ...]
    hashes: tuple[str, ...]

    @property
    def num_bytes(self) -> int:
        """Of the file."""
        return sum(self.sizes)

    def to_dict(self) -> dict[str, Any]:
        """The pieces as JSON has them."""
        return {"format": KIND, "sizes": list(self.sizes), "hashes": list(self.hashes)}


def read(values: Mapping[str, Any], num_bytes: int, what: str) -> FilePieces:
    """Pieces that came from elsewhere.

    Args:
        values: As `to_dict` gives them.
        num_bytes: Of the file.
        what: Whose they are, for messages.

    Raises:
        FormatError: They are none of such a file.
    """
    fields = TypedObject.of(values, what)
    if (kind := fields.need("format", text(80))) != KIND:
        raise FormatError(f"{what} is {kind!r}", expected=KIND)
    sizes = fields.need("sizes", listed(whole(1, _LARGEST_READ), MOST))
    hashes = fields.need("hashes", listed(text(64, 64), MOST))
    whole_file = sum(sizes) == num_bytes and len(sizes) == len(hashes)
    if not whole_file or not all(map(_HASH.fullmatch, hashes)):
        raise FormatError(
            f"{what} has {len(sizes)} pieces of {sum(sizes)} bytes and {len(hashes)} hashes",
            expected=f"a SHA-256 for each, {num_bytes} bytes in all",
        )
    return FilePieces(sizes=tuple(sizes), hashes=tuple(hashes))


def parse(data: bytes, num_bytes: int, what: str) -> FilePieces:
    """Pieces from JSON; arguments and errors as of `read`."""
    values = parse_json(data.decode("utf-8", "replace"), what)
    return read(TypedObject.of(values, what).values, num_bytes, what)
