"""A tensor that lies in a mapped file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kanna import encodings
from kanna.encodings import Encoding
from kanna.errors import FormatError, SourceError
from kanna.formats.text_files import refuse_stand_in
from kanna.model import F32, U8, columns


@dataclass(slots=True)
class StoredTensor:
    """A view of a mapped file: `data` is uint8 [num_rows * row bytes].

    Nothing is read before it is asked for.
    """

    name: str
    shape: tuple[int, ...]
    encoding: Encoding
    data: U8

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
        return self.data[start * size : stop * size].reshape(stop - start, size)

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


def map_file(path: Path) -> U8:
    """The bytes of a file as uint8, mapped.

    Raises:
        FormatError: It is empty, or a pointer of git-lfs or a web page in its place.
        SourceError: It is not there.
    """
    if not path.is_file():
        raise SourceError(f"{path} is not a file", todo="check the path")
    if path.stat().st_size == 0:
        raise FormatError(f"{path} is empty", expected="a model file", todo="fetch it again")
    data = np.memmap(path, dtype=np.uint8, mode="r").view(np.ndarray)
    refuse_stand_in(data[:512].tobytes(), "the file")
    return data


def stored(name: str, shape: tuple[int, ...], dtype: str, data: U8) -> StoredTensor:
    """A tensor of the encoding named `dtype` over its bytes, uint8 [nbytes]."""
    return StoredTensor(name, shape, encodings.get(dtype), data)
