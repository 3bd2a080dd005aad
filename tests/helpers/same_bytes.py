"""Whether two files hold the same bytes and, when they do not, what differs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from kanna.errors import KannaError
from kanna.formats import gguf
from kanna.model import MetaValue, Tensor, num_rows


def differences(path: Path, other: Path) -> list[str]:
    """What differs between two files, a line each; empty for the same bytes.

    Of GGUF files it names the keys and tensors: a difference in a file of a test that fails once in
    a hundred runs has to say on its own where it comes from.
    """
    one, two = (np.fromfile(file, np.uint8) for file in (path, other))
    if np.array_equal(one, two):
        return []
    lines = [f"{path.name}: {one.size} bytes; {other.name}: {two.size} bytes"]
    if one.size == two.size:
        places = np.flatnonzero(one != two)
        lines.append(f"{places.size} bytes differ, from {places[0]} to {places[-1]}")
    if path.suffix == other.suffix == ".gguf":
        lines += _of_gguf(path, other)
    return lines


def _of_gguf(path: Path, other: Path) -> list[str]:
    """The keys and tensors of two GGUF files that differ."""
    try:
        one, two = gguf.read(path), gguf.read(other)
    except KannaError as error:
        return [f"not readable: {error}"]
    lines = []
    for key in sorted({*one.metadata, *two.metadata}):
        first, second = _text(one.metadata.get(key)), _text(two.metadata.get(key))
        if first != second:
            lines.append(f"{key}: {first[:400]} | {second[:400]}")
    for name in sorted({*one.tensors, *two.tensors}):
        difference = _of_tensor(one.tensors.get(name), two.tensors.get(name))
        lines += [f"{name}: {difference}"] if difference else []
    return lines


def _text(value: MetaValue | None) -> str:
    """A value of the metadata, arrays item by item."""
    if value is None:
        return "missing"
    whole = isinstance(value.value, str) or not isinstance(value.value, Iterable)
    return str(value.value) if whole else str(list(value.value))


def _of_tensor(one: Tensor | None, two: Tensor | None) -> str:
    """How two tensors of one name differ; empty for the same bytes."""
    if one is None or two is None:
        return "only in one"
    if (one.dtype, one.shape) != (two.dtype, two.shape):
        return f"{one.dtype} {one.shape} | {two.dtype} {two.shape}"
    rows, others = (np.asarray(t.raw(0, num_rows(t))) for t in (one, two))
    count = np.count_nonzero(rows != others)
    return f"{count} of {rows.size} bytes of {one.dtype} differ" if count else ""
