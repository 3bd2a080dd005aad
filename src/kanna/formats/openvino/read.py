"""An OpenVINO folder that kanna wrote, read again: constants by the names of Hugging Face."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any
from xml.parsers import expat

import numpy as np

from kanna import encodings
from kanna.encodings import Encoding
from kanna.errors import FormatError
from kanna.formats import folder_files
from kanna.formats.base import FolderContents
from kanna.formats.openvino.ir import BITS, Shape, nbytes
from kanna.formats.openvino.weights import SCALE, ZERO, joined
from kanna.formats.stored import stored
from kanna.formats.stored_file import Part, StoredFile
from kanna.model import F32, U8, Tensor

MODEL, WEIGHTS = "openvino_model.xml", "openvino_model.bin"
_TAIL = 4096
_MOST_BYTES = 256 << 20
_MOST_LAYERS = 1 << 20
_LONGEST = 255
_AGAIN = "convert again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant:
    """A constant of a graph: element type, shape, and its first byte in the file of weights."""

    kind: str
    shape: Shape
    offset: int


@dataclass(slots=True)
class _Reading:
    """What is found while a graph is read."""

    path: Path
    constants: dict[str, Constant] = field(default_factory=dict[str, Constant])
    layers: int = 0
    inside: tuple[str, ...] = ()
    name: str = ""

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        """An element begins."""
        if not self.inside and tag != "net":
            raise _bad(self.path, f"it begins with {tag:.40}")
        self.inside = (*self.inside, tag)
        if len(self.inside) > _LONGEST:
            raise _bad(self.path, "its parts are nested too deep")
        if tag == "layer":
            self.layers += 1
            if self.layers > _MOST_LAYERS:
                raise _bad(self.path, f"it has more than {_MOST_LAYERS} layers")
            self.name = attributes.get("name", "") if attributes.get("type") == "Const" else ""
        elif tag == "data" and self.name and self.inside[-2] == "layer":
            self._constant(attributes)

    def end(self, _: str) -> None:
        """An element ends."""
        self.inside = self.inside[:-1]

    def refuse(self, *_: Any) -> None:
        """A document type or an entity: nothing of OpenVINO has one."""
        raise _bad(self.path, "it declares a document type or entities")

    def _constant(self, attributes: Mapping[str, str]) -> None:
        kind = attributes.get("element_type", "")
        sizes = [s.strip() for s in attributes.get("shape", "").split(",")]
        shape = tuple(_count(self.path, s) for s in sizes if s)
        offset = _count(self.path, attributes.get("offset", ""))
        size = _count(self.path, attributes.get("size", ""))
        if kind in BITS:
            if nbytes(kind, shape) != size:
                raise _bad(self.path, f"{self.name:.80} has {size} bytes for {shape} of {kind}")
            self.constants[self.name] = Constant(kind=kind, shape=shape, offset=offset)


def _count(path: Path, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise _bad(path, f"it has {text!r:.40} where a number of elements or bytes is expected")
    return int(text)


def _bad(path: Path, what: str) -> FormatError:
    return FormatError(f"{path} is no graph of OpenVINO: {what}", expected="its IR", todo=_AGAIN)


def constants(path: Path) -> dict[str, Constant]:
    """The constants of a graph by name; raises FormatError for anything but a graph."""
    if path.stat().st_size > _MOST_BYTES:
        raise _bad(path, f"it has {path.stat().st_size} bytes")
    reading, parser = _Reading(path), expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = reading.start, reading.end
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = reading.refuse
    try:
        parser.Parse(path.read_bytes(), True)
    except expat.ExpatError as error:
        raise _bad(path, str(error)) from None
    return reading.constants


def read_folder(path: Path) -> FolderContents:
    """The tensors of a folder; raises FormatError where it is damaged, or not one of kanna's."""
    weights = folder_files.named(path, WEIGHTS)
    known = constants(folder_files.named(path, MODEL))
    size, file = weights.stat().st_size, StoredFile(weights)
    for name, constant in known.items():
        stop = constant.offset + nbytes(constant.kind, constant.shape)
        if stop > size:
            raise FormatError(
                f"{weights} has {size} bytes, and {name:.80} ends at {stop}",
                expected="a complete file",
                todo="copy or convert it again",
            )
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
    scale, zero = known.get(name + SCALE), known.get(name + ZERO)
    rows, *groups = codes.shape if codes.shape else (0,)
    count = groups[0] if len(groups) == 2 else 1
    narrow = (rows, count, 1) if len(groups) == 2 else (rows, 1)
    wanted = f"nbits{BITS[codes.kind]}g{groups[-1] if groups else 0}"
    fits = (
        codes.kind in ("u4", "i4", "u8", "i8")
        and len(groups) in (1, 2)
        and prod(codes.shape) > 0
        and scale is not None
        and (scale.kind, scale.shape) == ("f16", narrow)
        and (zero is None) == codes.kind.startswith("i")
        and (zero is None or (zero.kind, zero.shape) == (codes.kind, narrow))
    )
    if not fits or scale is None:
        raise FormatError(
            f"{name:.80} is no matrix of codes with scales and zeros",
            expected="groups as kanna writes them",
            todo=_AGAIN,
        )
    return StoredGroups(
        name,
        (rows, count * groups[-1]),
        encodings.get(wanted + ("s" if zero is None else "")),
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
        groups = self.shape[1] // self.encoding.block
        return joined(self.encoding.name, start, stop, groups, self._read)

    def _read(self, plane: int, first: int, stop: int) -> U8:
        return np.asarray(self._parts[plane].read(first, stop))


def keeps_floats(folder: Path) -> bool:
    """Whether the graph asks for keys and values in float32; they are bytes otherwise."""
    file = StoredFile(folder / MODEL)
    end = file.read(max(0, file.size - _TAIL), file.size).tobytes()
    return b'<KV_CACHE_PRECISION value="f32"' in end
