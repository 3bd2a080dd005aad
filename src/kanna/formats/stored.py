"""A tensor that lies in a file."""

from __future__ import annotations

from dataclasses import dataclass

from kanna import encodings
from kanna.encodings import Encoding
from kanna.errors import SourceError
from kanna.formats.stored_file import Part
from kanna.model import F32, U8, columns


@dataclass(slots=True)
class StoredTensor:
    """A part of a file, `data`: num_rows * row bytes; or such an array, uint8.

    Of a file, nothing is read before it is asked for.
    """

    name: str
    shape: tuple[int, ...]
    encoding: Encoding
    data: Part | U8

    @property
    def dtype(self) -> str:
        """Name of the encoding."""
        return self.encoding.name

    @property
    def nbytes(self) -> int:
        """Bytes it takes in the file."""
        return self.data.size

    def raw(self, start: int, stop: int) -> U8:
        """Rows [start, stop) as they lie in the file, uint8 [rows, row bytes]."""
        size = self.encoding.row_bytes(columns(self))
        first, last = start * size, stop * size
        part = self.data.read(first, last) if isinstance(self.data, Part) else self.data[first:last]
        return part.reshape(stop - start, size)

    def rows(self, start: int, stop: int) -> F32:
        """Rows [start, stop), decoded, float32 [rows, columns]."""
        return self.encoding.decode(self.raw(start, stop), columns(self))


@dataclass(slots=True)
class HeaderTensor:
    """A tensor of which only the header is known, because its file was not fetched."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int

    def raw(self, start: int, stop: int) -> U8 | None:
        """Raises SourceError: there are no values."""
        raise SourceError(f"the values of {self.name} were not fetched")

    def rows(self, start: int, stop: int) -> F32:
        """Raises SourceError: there are no values."""
        raise SourceError(f"the values of {self.name} were not fetched")


def stored(name: str, shape: tuple[int, ...], dtype: str, data: Part | U8) -> StoredTensor:
    """A tensor of the encoding named `dtype` over its bytes."""
    return StoredTensor(name, shape, encodings.get(dtype), data)
