"""An OpenVINO folder that kanna wrote, read again: constants by the names of Hugging Face."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from pathlib import Path

import numpy as np

from kanna import encodings
from kanna.encodings import Encoding
from kanna.errors import FormatError
from kanna.formats import folder_files
from kanna.formats.base import FolderContents
from kanna.formats.openvino.graphs import MODEL, WEIGHTS, Constant, constants
from kanna.formats.openvino.groups import groups_of, named
from kanna.formats.openvino.ir import nbytes
from kanna.formats.openvino.weights import ROW_SCALE, SCALE, ZERO, joined
from kanna.formats.stored import stored
from kanna.formats.stored_file import Part, StoredFile
from kanna.model import F32, U8, Tensor

_TAIL = 4096


def read_folder(path: Path) -> FolderContents:
    """The tensors of a folder; raises FormatError where it is damaged, or not one of kanna's."""
    weights = folder_files.named(path, WEIGHTS)
    known = constants(folder_files.named(path, MODEL))
    file = StoredFile(weights)
    tensors = {
        name: _tensor(name, constant, known, file)
        for name, constant in known.items()
        if name.endswith((".weight", ".bias"))
    }
    if not tensors:
        raise FormatError(
            f"{path} holds no tensor under a name of Hugging Face",
            expected="a folder that kanna wrote",
            todo="convert the model it was made of",
        )
    return FolderContents(tensors=tensors, weight_files=[weights])


def _part(file: StoredFile, constant: Constant) -> Part:
    return file.part(constant.offset, constant.offset + nbytes(constant.kind, constant.shape))


def _tensor(name: str, codes: Constant, known: Mapping[str, Constant], file: StoredFile) -> Tensor:
    if codes.kind in ("f32", "f16"):
        if 0 in codes.shape or not 0 < len(codes.shape) < 3:
            raise FormatError(f"{name:.80} has shape {list(codes.shape)}", expected="a matrix")
        return stored(name, codes.shape, codes.kind, _part(file, codes))
    of_row = known.get(name + ROW_SCALE)
    scale, zero = known.get(name + SCALE, of_row), known.get(name + ZERO)
    rows, *groups = codes.shape if codes.shape else (0,)
    count = groups[0] if len(groups) == 2 else 1
    narrow = (rows, count, 1) if len(groups) == 2 else (rows, 1)
    fits = (
        codes.kind in ("u4", "i4", "u8", "i8", "nf4")
        and len(groups) in (1, 2)
        and prod(codes.shape) > 0
        and scale is not None
        and (scale.kind, scale.shape) == ("f16", narrow)
        and (zero is None) != codes.kind.startswith("u")
        and (zero is None or (zero.kind, zero.shape) == (codes.kind, narrow))
    )
    if not fits or scale is None:
        raise FormatError(
            f"{name:.80} is no matrix of codes with scales and zeros",
            expected="groups as kanna writes them",
            todo="convert again",
        )
    return StoredGroups(
        name,
        (rows, count * groups[-1]),
        encodings.get(named(codes.kind, 0 if scale is of_row else groups[-1])),
        [_part(file, part) for part in (codes, scale, *([zero] if zero else []))],
    )


class StoredGroups:
    """A matrix of codes, scales and zeros, read row by row."""

    def __init__(
        self, name: str, shape: tuple[int, int], encoding: Encoding, parts: list[Part]
    ) -> None:
        self.name, self.shape, self.encoding, self._parts = name, shape, encoding, parts

    @property
    def dtype(self) -> str:
        """Name of the encoding."""
        return self.encoding.name

    @property
    def nbytes(self) -> int:
        """Bytes of all rows in the file."""
        return sum(part.size for part in self._parts)

    def rows(self, start: int, stop: int) -> F32:
        """Rows [start, stop), decoded, float32 [rows, columns]."""
        return self.encoding.decode(self.raw(start, stop), self.shape[1])

    def raw(self, start: int, stop: int) -> U8:
        """Rows [start, stop) with their parts joined, uint8 [rows, row bytes]."""
        kind = groups_of(self.encoding.name)
        assert kind is not None
        return joined(kind, start, stop, self.shape[1], self._read)

    def _read(self, plane: int, first: int, stop: int) -> U8:
        return np.asarray(self._parts[plane].read(first, stop))


def keeps_floats(folder: Path) -> bool:
    """Whether the graph asks for keys and values in float32; they are bytes otherwise."""
    file = StoredFile(folder / MODEL)
    end = file.read(max(0, file.size - _TAIL), file.size).tobytes()
    return b'<KV_CACHE_PRECISION value="f32"' in end


def pages_attention(folder: Path) -> bool:
    """Whether attention is the one operation that OpenVINO can compute over pages of a cache."""
    return b'type="ScaledDotProductAttention"' in (folder / MODEL).read_bytes()
