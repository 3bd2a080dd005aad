"""Read a GGUF file that may be hostile.

Every count and offset is checked against the bytes that are there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kanna.errors import ChangedError, FormatError, KannaError
from kanna.formats import folder_files
from kanna.formats.gguf.cursor import MAX_KEY, Cursor, LongerError, TensorInfo, cut
from kanna.formats.gguf.keys import check_sizes, checked
from kanna.formats.stored import HeaderTensor, StoredTensor
from kanna.formats.stored_file import Part, StoredFile
from kanna.model import U8, MetaValue, Tensor

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
MOST_KEYS = MOST_TENSORS = 1 << 16
"""Of one file: published ones have hundreds, and each takes more memory than its bytes."""
_HEADER_BYTES = 1 << 20
"""Read at first; where the header goes on, four times as many, and so on."""
MAX_HEADER = 1 << 29
"""Bytes; the longest in use have a twentieth of it."""
SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")

# Smallest size of one entry, to refuse counts that the file cannot hold before anything is
# allocated.
_LEAST_KV, _LEAST_TENSOR = 8 + 4 + 1, 8 + 4 + 8 + 4 + 8


@dataclass(slots=True, kw_only=True)
class GGUFFile:
    """A GGUF file, or all parts of a split one, with nothing read but its header.

    Attributes:
        metadata: Keys → typed values, in file order, without the split.* keys.
        tensors: By name, in file order.
        num_remote_bytes: Of a file that was not fetched; None where it is here.
    """

    paths: list[Path]
    version: int
    alignment: int
    metadata: dict[str, MetaValue]
    tensors: dict[str, Tensor]
    num_remote_bytes: int | None = None

    @property
    def path(self) -> Path:
        """The file, or the first part."""
        return self.paths[0]

    @property
    def num_bytes(self) -> int:
        """Bytes of all parts."""
        if self.num_remote_bytes is not None:
            return self.num_remote_bytes
        return sum(p.stat().st_size for p in self.paths)

    def value(self, key: str, default: Any = None) -> Any:
        """The value of a key of the metadata, or `default` where it is absent."""
        entry = self.metadata.get(key)
        return default if entry is None else entry.value


def is_gguf(path: Path) -> bool:
    """True when the file begins with the magic of GGUF."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) == MAGIC


def read(path: Path | str) -> GGUFFile:
    """Open a GGUF file; of a split one, give the first part.

    Raises FormatError, SourceError, UnsupportedError.
    """
    path = Path(path)
    first = _read_part(path)
    count = int(first.value("split.count", 0))
    file = _without_split_keys(first if count <= 1 else _join(path, first, count))
    try:
        check_sizes(file.metadata, file.tensors)
    except FormatError as error:
        raise _named(error, path) from None
    return file


def tensor_places(path: Path) -> list[tuple[int, int]]:
    """Where the tensors of one file begin and end, in the order of their data; of a part, its own.

    Raises FormatError, SourceError, UnsupportedError.
    """
    parts = (t.data for t in _read_part(path).tensors.values() if isinstance(t, StoredTensor))
    return sorted((p.start, p.start + p.size) for p in parts if isinstance(p, Part))


def read_header(path: Path, data: U8, size: int) -> GGUFFile:
    """What the first bytes of a file of `size` bytes say; its tensors have no values.

    Raises FormatError, SourceError, UnsupportedError; FormatError when the header is longer.
    """
    file = _parse(path, Cursor(data), size)
    file.num_remote_bytes = size
    return file


def _join(path: Path, first: GGUFFile, count: int) -> GGUFFile:
    named = SHARD.fullmatch(path.name)
    if (
        named is None
        or int(named[3]) != count
        or int(first.value("split.no", 0)) != int(named[2]) - 1
    ):
        raise FormatError(
            f"{path.name} says it is part {int(first.value('split.no', 0)) + 1} of {count}",
            expected=f"a name such as NAME-00001-of-{count:05}.gguf that agrees with it",
            todo="rename the parts back to the names they were published under",
        )
    if int(named[2]) != 1:
        raise FormatError(
            f"{path.name} is not the first part of the model",
            todo=f"give {named[1]}-00001-of-{named[3]}.gguf",
        )
    for number in range(2, count + 1):
        other = path.with_name(f"{named[1]}-{number:05}-of-{named[3]}.gguf")
        if not other.is_file():
            raise FormatError(
                f"part {number} of {count} is missing: {other.name}",
                todo=f"put it beside {path.name}",
            )
        part = _read_part(folder_files.beside(path, other))
        if (again := set(part.tensors) & set(first.tensors)) != set():
            raise FormatError(f"{other.name} repeats the tensor {sorted(again)[0]}")
        first.tensors.update(part.tensors)
        first.paths.append(other)
    wanted = first.value("split.tensors.count")
    if wanted is not None and int(wanted) != len(first.tensors):
        raise FormatError(f"the parts hold {len(first.tensors)} tensors", expected=str(wanted))
    return first


def _without_split_keys(file: GGUFFile) -> GGUFFile:
    file.metadata = {k: v for k, v in file.metadata.items() if not k.startswith("split.")}
    return file


def _read_part(path: Path) -> GGUFFile:
    try:
        file = StoredFile(path)
        num_bytes = min(_HEADER_BYTES, file.size)
        while True:
            try:
                return _parse(path, Cursor(file.read(0, num_bytes), file.size), file.size, file)
            except LongerError as error:
                if num_bytes >= MAX_HEADER:
                    raise FormatError(
                        f"the header has more than {MAX_HEADER} bytes",
                        expected="a header of metadata, a vocabulary and names of tensors",
                    ) from error
                num_bytes = min(max(4 * num_bytes, error.num_bytes), file.size, MAX_HEADER)
    except ChangedError:
        raise
    except KannaError as error:
        raise _named(error, path) from None


def _named(error: KannaError, path: Path) -> KannaError:
    """The same error with the name of the file before what is wrong."""
    return type(error)(f"{path.name}: {error.found}", expected=error.expected, todo=error.todo)


def _parse(path: Path, cursor: Cursor, size: int, file: StoredFile | None = None) -> GGUFFile:
    if (magic := bytes(cursor.take(4))) != MAGIC:
        raise FormatError(
            f'the file begins with "{magic.decode("latin-1")}"',
            expected='a GGUF file, which begins with "GGUF"',
            todo="give a GGUF file, or the folder of a model",
        )
    version = cursor.u32()
    if version not in VERSIONS:
        if int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS:
            raise FormatError(
                "the file is big-endian",
                expected="little-endian",
                todo="fetch the little-endian file",
            )
        raise FormatError(
            f"GGUF version {version}",
            expected="2 or 3",
            todo="make the file again with a current tool",
        )
    num_tensors, num_kv = cursor.u64(), cursor.u64()
    if num_tensors * _LEAST_TENSOR + num_kv * _LEAST_KV > cursor.left:
        raise cut(f"the header promises {num_tensors} tensors and {num_kv} keys", cursor.size)
    if num_tensors > MOST_TENSORS or num_kv > MOST_KEYS:
        raise FormatError(
            f"the header has {num_tensors} tensors and {num_kv} keys",
            expected=f"at most {MOST_TENSORS} tensors and {MOST_KEYS} keys",
        )
    metadata: dict[str, MetaValue] = {}
    for _ in range(num_kv):
        key = cursor.string(MAX_KEY)
        if key in metadata:
            raise FormatError(f"the key {key!r} occurs twice")
        metadata[key] = cursor.value(cursor.value_type(), 0)
    metadata = checked(metadata)
    alignment = DEFAULT_ALIGNMENT
    if "general.alignment" in metadata:
        alignment = int(metadata["general.alignment"].value)
    if alignment & (alignment - 1):
        raise FormatError(
            f"general.alignment is {alignment}", expected="a power of two from 8 to 1048576"
        )
    infos = [cursor.tensor_info() for _ in range(num_tensors)]
    start = -(-cursor.at // alignment) * alignment
    tensors = _place(infos, file, start, alignment=alignment, size=size)
    return GGUFFile(
        paths=[path], version=version, alignment=alignment, metadata=metadata, tensors=tensors
    )


def _place(
    infos: list[TensorInfo], file: StoredFile | None, start: int, *, alignment: int, size: int
) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for info in infos:
        if info.name in tensors:
            raise FormatError(f"the tensor {info.name!r} occurs twice")
        begin = start + info.offset
        if info.offset % alignment:
            raise FormatError(
                f"{info.name} begins at {info.offset}", expected=f"a multiple of {alignment}"
            )
        if begin + info.size > size:
            raise FormatError(
                f"{info.name} ends at byte {begin + info.size}, the file at {size}: it is"
                " truncated",
                todo="fetch the file again",
            )
        if file is None:  # only the header is here
            tensors[info.name] = HeaderTensor(info.name, info.shape, info.encoding.name, info.size)
            continue
        tensors[info.name] = StoredTensor(
            info.name, info.shape, info.encoding, file.part(begin, begin + info.size)
        )
    end, before = 0, ""
    for info in sorted(infos, key=lambda i: i.offset):
        if info.offset < end:
            raise FormatError(f"{info.name} overlaps {before}")
        end, before = info.offset + info.size, info.name
    return tensors
