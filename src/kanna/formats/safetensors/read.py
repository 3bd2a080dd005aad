"""Read safetensors files that may be hostile: the header is checked against the bytes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from kanna._util.typed import is_plain, shown
from kanna.errors import ChangedError, FormatError, SourceError, UnsupportedError
from kanna.formats.safetensors.shards import INDEX, WeightFiles, weight_files
from kanna.formats.stored import stored
from kanna.formats.stored_file import Part, StoredFile
from kanna.formats.text_files import refuse_bomb
from kanna.model import Tensor

MAX_HEADER = 100_000_000
MAX_AXES = 8
MOST_TENSORS = 1 << 16
"""Of one file: published ones have hundreds, and each takes more memory than its entry."""
# safetensors dtype → encoding
DTYPES = {
    "F64": "f64",
    "F32": "f32",
    "F16": "f16",
    "BF16": "bf16",
    "I64": "i64",
    "I32": "i32",
    "I16": "i16",
    "I8": "i8",
}
# Bytes per value of types that have no encoding: they may lie in a file as long as nobody wants
# their values.
OTHER = {"U8": 1, "BOOL": 1, "U16": 2, "U32": 4, "U64": 8, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1}
_SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1} | OTHER


@dataclass(frozen=True, slots=True)
class Entry:
    """What the header says of one tensor; begin and end count from the end of the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def header_size(first: bytes) -> int:
    """Bytes of the JSON header from the first 8 bytes of a file."""
    if len(first) < 8:
        raise FormatError(
            f"the file has {len(first)} bytes", expected="a safetensors file", todo="fetch it again"
        )
    size = int.from_bytes(first[:8], "little")
    if not 2 <= size <= MAX_HEADER:
        raise FormatError(
            f"the header says it has {size} bytes",
            expected=f"2 to {MAX_HEADER}",
            todo="give a safetensors file",
        )
    return size


def parse_header(header: bytes, num_data: int | None = None) -> list[Entry]:
    """Entries of a header in the order of their data; `num_data` bytes follow it, when known.

    Raises FormatError when shapes, types and offsets do not agree, overlap or leave the file.
    """
    entries = [
        _entry(name, value) for name, value in _json(header).items() if name != "__metadata__"
    ]
    entries.sort(key=lambda e: (e.begin, e.end))
    end = 0
    for entry in entries:
        if entry.begin != end:
            how = "overlaps the tensor before it" if entry.begin < end else "leaves a gap before it"
            raise FormatError(f"{entry.name} begins at {entry.begin} and {how}", expected=str(end))
        end = entry.end
    if num_data is not None and end != num_data:
        what = "the file is truncated" if end > num_data else "bytes follow the last tensor"
        raise FormatError(
            f"the tensors take {end} bytes, the file has {num_data}: {what}",
            todo="fetch the file again",
        )
    return entries


def _json(header: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) < len(pairs):
            raise FormatError("the header names a tensor twice")
        return members

    if header.count(b'"data_offsets"') > MOST_TENSORS:
        raise FormatError(
            f"the header has more than {MOST_TENSORS} tensors", expected="shards of fewer tensors"
        )
    refuse_bomb(header, "the header")
    try:
        parsed = json.loads(header.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise FormatError(
            f"the header is not JSON: {str(error)[:200]}", todo="fetch the file again"
        ) from None
    if not isinstance(parsed, dict):
        raise FormatError(f"the header is a {type(parsed).__name__}", expected="an object")
    return parsed


def _entry(name: str, value: Any) -> Entry:
    try:
        dtype, shape, (begin, end) = value["dtype"], value["shape"], value["data_offsets"]
    except (KeyError, TypeError, ValueError):
        raise FormatError(f"the header entry of {name!r:.100} is malformed") from None
    if not is_plain(name):
        raise FormatError(f"a tensor has the name {name!r:.80}", expected="a name in UTF-8")
    if not isinstance(dtype, str) or dtype not in _SIZES:
        raise UnsupportedError(
            f"{name!s:.100} has dtype {shown(dtype)}", expected=", ".join(DTYPES)
        )
    if not isinstance(shape, list) or len(shape) > MAX_AXES:
        axes = f"{len(shape)} axes" if isinstance(shape, list) else shown(shape)
        raise FormatError(
            f"{name!s:.100} has a shape of {axes}", expected=f"a list of at most {MAX_AXES} axes"
        )
    numbers = (*shape, begin, end)
    if not all(type(n) is int and 0 <= n < 1 << 62 for n in numbers):
        raise FormatError(
            f"{name!s:.100} has shape {shown(shape)} and offsets {shown([begin, end])}",
            expected="whole numbers",
        )
    shape = tuple(shape)
    if end - begin != prod(shape) * _SIZES[dtype]:
        raise FormatError(
            f"{name} has {end - begin} bytes",
            expected=f"{prod(shape) * _SIZES[dtype]} for {dtype} {list(shape)}",
        )
    return Entry(name, dtype, shape, begin, end)


def tensor_places(path: Path) -> list[tuple[int, int]]:
    """Where the tensors of a file begin and end, in the order of their data.

    Raises FormatError.
    """
    with path.open("rb") as file:
        data = 8 + header_size(file.read(8))
        entries = parse_header(file.read(data - 8), path.stat().st_size - data)
    return [(data + entry.begin, data + entry.end) for entry in entries]


def maker(path: Path) -> str:
    """What the metadata of a file calls its format, such as `pt` or `mlx`; "" without any."""
    try:
        with path.open("rb") as file:
            header = _json(file.read(header_size(file.read(8))))
    except (FormatError, OSError):
        return ""
    metadata = header.get("__metadata__")
    return str(metadata.get("format", "")) if isinstance(metadata, dict) else ""


def read_file(path: Path) -> dict[str, Tensor]:
    """Tensors of one file by name, lazy."""
    try:
        file = StoredFile(path)
        size = header_size(file.read(0, min(8, file.size)).tobytes())
        if 8 + size > file.size:
            raise FormatError(
                f"the header says it has {size} bytes, the file has {file.size}: the file is "
                "truncated",
                todo="fetch the file again",
            )
        begin = 8 + size
        entries = parse_header(file.read(8, begin).tobytes(), file.size - begin)
    except ChangedError:
        raise
    except SourceError as error:
        raise type(error)(
            f"{path.name}: {error.found}", expected=error.expected, todo=error.todo
        ) from None
    tensors: dict[str, Tensor] = {}
    for e in entries:
        # Types without an encoding are kept as bytes: the family says whether their values are
        # needed.
        part, dtype = file.part(begin + e.begin, begin + e.end), DTYPES.get(e.dtype)
        if dtype:
            tensors[e.name] = stored(e.name, e.shape, dtype, part)
        else:
            tensors[e.name] = Unreadable(e.name, e.shape, e.dtype.lower(), part)
    return tensors


@dataclass(slots=True)
class Unreadable:
    """A tensor of a type without an encoding: packed codes or 8-bit floats."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    data: Part

    @property
    def nbytes(self) -> int:
        """Bytes it takes in the file."""
        return self.data.size

    def raw(self, start: int, stop: int) -> None:
        """None: no encoding holds these bytes."""
        return None

    def rows(self, start: int, stop: int) -> Any:
        """Raises UnsupportedError: the values cannot be decoded."""
        raise UnsupportedError(
            f"{self.name} holds {self.dtype} values",
            expected=", ".join(DTYPES),
            todo="use the 16-bit release of this model",
        )


def read_folder(folder: Path, files: WeightFiles | None = None) -> dict[str, Tensor]:
    """Tensors of a model folder by name.

    Args:
        folder: The folder.
        files: Its weight files; None: those that `weight_files` names.

    Raises:
        FormatError: A tensor is twice in them, or one that the index promises is in none.
    """
    files = files or weight_files(folder)
    tensors: dict[str, Tensor] = {}
    for name in files.names:
        for key, tensor in read_file(folder / name).items():
            if key in tensors:
                raise FormatError(f"{name} repeats the tensor {key}")
            tensors[key] = tensor
    lost = [name for name in files.indexed if name not in tensors]
    if lost:
        raise FormatError(
            f"{len(lost)} tensors of {INDEX} are in no shard, such as {lost[0]}",
            expected="an index of these very shards",
            todo="fetch the model again: index and shards are not of one save",
        )
    return tensors
