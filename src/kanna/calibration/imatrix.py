"""Importance matrices: how strongly each column of a tensor is used, measured by llama.cpp on text.

Two layouts: GGUF (`NAME.in_sum2` and `NAME.counts`, llama.cpp tools/imatrix) and the older .dat.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kanna import encodings
from kanna._util.digest import sha256
from kanna._util.nearest import absent
from kanna.errors import FormatError, NotFoundError
from kanna.families.views import Computed
from kanna.formats import gguf
from kanna.model import F32, ValueType, array, num_rows, string, u32
from kanna.plan.types import TensorPlan

_SUMS, _COUNTS = ".in_sum2", ".counts"
_MAX_NAME = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Imatrix:
    """An importance matrix.

    Matrices that no text ran through have no entry in it, whatever the file says of them.

    Attributes:
        path: The file.
        weights: Mean square of each input column by tensor name, f32 [columns] or
            [experts, columns].
        datasets: Names of the texts it was measured on.
        chunks: Windows of those texts.
        sha256: Hash of the file.
    """

    path: Path
    weights: dict[str, F32]
    datasets: list[str]
    chunks: int
    sha256: str


def read(path: Path | str) -> Imatrix:
    """Read an imatrix. Raises PlanError when there is none, FormatError when it is damaged."""
    path = Path(path)
    if not path.is_file():
        raise NotFoundError(
            f"the imatrix {absent(path)}",
            todo="check the path, or make it with llama-imatrix",
        )
    digest = sha256(path)
    if gguf.is_gguf(path):
        weights, datasets, chunks = _read_gguf(path)
    else:
        weights, datasets, chunks = _read_dat(path)
    for name, values in weights.items():
        if not np.isfinite(values).all() or (values < 0).any():
            raise FormatError(
                f"{path.name}: {name} holds negative or non-finite values", todo="make it again"
            )
    return Imatrix(path=path, weights=weights, datasets=datasets, chunks=chunks, sha256=digest)


def _read_gguf(path: Path) -> tuple[dict[str, F32], list[str], int]:
    file = gguf.read(path)
    if file.value("general.type") != "imatrix":
        raise FormatError(
            f"{path.name} is a GGUF of type {file.value('general.type')!r}",
            expected="an imatrix, as llama-imatrix writes it",
        )
    weights: dict[str, F32] = {}
    for key, tensor in file.tensors.items():
        if not key.endswith(_SUMS):
            continue
        name = key.removesuffix(_SUMS)
        counts = file.tensors.get(name + _COUNTS)
        if counts is None:
            raise FormatError(f"{path.name} has {key} without {name + _COUNTS}")
        sums = tensor.rows(0, num_rows(tensor))
        count = counts.rows(0, num_rows(counts)).reshape(-1, 1)
        if len(count) != len(sums):
            raise FormatError(f"{path.name}: {name} has {len(sums)} sums and {len(count)} counts")
        if not (count > 0).any():
            continue  # never used: as if it had no entry
        # An expert that was never used says nothing: all of its columns count the same.
        means = np.where(count > 0, sums / np.maximum(count, 1), 1).astype(np.float32)
        weights[name] = means[0] if len(means) == 1 else means
    datasets = [str(d) for d in file.value("imatrix.datasets") or []]
    return _not_empty(path, weights), datasets, int(file.value("imatrix.chunk_count") or 0)


def _read_dat(path: Path) -> tuple[dict[str, F32], list[str], int]:
    data = memoryview(path.read_bytes())
    at = 0

    def number() -> int:
        nonlocal at
        if at + 4 > len(data):
            raise FormatError(f"{path.name} ends early: it is truncated, or no imatrix")
        at += 4
        return struct.unpack_from("<i", data, at - 4)[0]

    def take(size: int, limit: int) -> memoryview:
        nonlocal at
        if not 0 < size <= min(limit, len(data) - at):
            raise FormatError(
                f"{path.name} has an entry of {size} bytes at {at}: it is truncated, or no imatrix"
            )
        at += size
        return data[at - size : at]

    weights: dict[str, F32] = {}
    count = number()
    if not 0 < count <= len(data) // 16:
        raise FormatError(
            f"{path.name} promises {count} entries", expected="an imatrix, GGUF or .dat"
        )
    for _ in range(count):
        name = bytes(take(number(), _MAX_NAME)).decode("utf-8", "replace")
        calls, size = number(), number()
        values = np.frombuffer(take(4 * size, len(data)), "<f4")
        if calls == 0 or not values.any():
            continue  # never used: as if it had no entry
        with np.errstate(all="ignore"):  # what is no number is refused with its name
            weights[name] = (values / max(calls, 1)).astype(np.float32)
    chunks = number() if at + 4 <= len(data) else 0
    datasets = (
        [bytes(take(number(), _MAX_NAME)).decode("utf-8", "replace")] if at + 4 <= len(data) else []
    )
    return _not_empty(path, weights), datasets, chunks


def _not_empty(path: Path, weights: dict[str, F32]) -> dict[str, F32]:
    if not weights:
        raise FormatError(f"{path.name} has no entries", todo="make the imatrix again")
    return weights


def write(
    path: Path,
    weights: Mapping[str, F32],
    counts: Mapping[str, Sequence[int]],
    *,
    tokens: int,
    window: int,
    datasets: Sequence[str],
) -> None:
    """Write an importance matrix as llama-imatrix does (llama.cpp tools/imatrix): sums and counts.

    Args:
        path: File to write; an existing one is replaced.
        weights: Mean square of each input column by tensor name, f32 [columns] or [experts,
            columns].
        counts: Tokens of each expert, of the tensors that have some.
        tokens: Tokens that all others were measured on.
        window: Tokens of a window, a chunk to llama.cpp.
        datasets: Names of the texts.
    """
    metadata = {
        "general.type": string("imatrix"),
        "imatrix.datasets": array(list(datasets), ValueType.STR),
        "imatrix.chunk_count": u32(max(1, tokens // window)),
        "imatrix.chunk_size": u32(window),
    }
    f32 = encodings.get("f32")
    entries: list[TensorPlan] = []
    for name in sorted(weights):
        count = np.array(counts.get(name, [max(1, tokens)]), np.float32).reshape(-1, 1)
        sums = np.atleast_2d(weights[name]).astype(np.float32) * count
        for part, values in ((".in_sum2", sums), (".counts", count)):
            # One matrix has one axis, a stack has two.
            tensor = Computed(
                name + part, np.ascontiguousarray(values[0] if len(values) == 1 else values)
            )
            entries.append(
                TensorPlan(name=tensor.name, tensor=tensor, encoding=f32, method="nearest")
            )
    gguf.write(path, metadata=metadata, tensors=entries, overwrite=True)
