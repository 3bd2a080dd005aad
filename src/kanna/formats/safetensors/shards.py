"""Which files of a folder hold the model.

Chosen as transformers does, so that no two libraries read different weights from one folder.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from kanna._util.typed import OBJECT, TypedObject, read, text
from kanna.errors import FormatError, SourceError
from kanna.formats.text_files import decode, parse_json

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
ADAPTER = "adapter_model.safetensors"
_SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.safetensors")


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFiles:
    """The files of a model.

    Attributes:
        names: In the order they are read.
        indexed: Names of the tensors that an index promises.
        notes: What the user must know of files that lie beside them.
    """

    names: list[str]
    indexed: list[str] = field(default_factory=list[str])
    notes: list[str] = field(default_factory=list[str])


def weight_map(index: bytes) -> Mapping[str, str]:
    """Tensor name → file name of an index; FormatError when it is malformed or leaves the folder.

    Args:
        index: The bytes of the index file.
    """
    parsed = TypedObject.of(parse_json(decode(index, INDEX), INDEX), INDEX)
    given = parsed.need("weight_map", OBJECT)
    kind = text(255, 1)
    for tensor, name in given.items():
        if type(name) is not str:
            read(name, kind, f"weight_map.{tensor[:80]}", INDEX)
    files: Mapping[str, str] = given
    for name in set(files.values()):
        read(name, kind, "a file of weight_map", INDEX)
        if PurePosixPath(name).name != name or "\\" in name:
            raise FormatError(f"{INDEX} names the file {name!r}", expected="a plain file name")
    return files


def shard_names(index: bytes) -> list[str]:
    """File names that an index file lists, in order; raises as `weight_map` does."""
    return sorted(set(weight_map(index).values()))


def weight_files(folder: Path) -> WeightFiles:
    """The weight files of a model folder.

    One file of the usual name is the model whatever index lies beside it, as in transformers.

    Raises:
        SourceError: Shards are missing.
    """
    present = sorted(p.name for p in folder.glob("*.safetensors") if p.is_file())
    index = folder / INDEX
    if SINGLE in present:
        return _single(index, present)
    if index.is_file():
        files = weight_map(index.read_bytes())
        names = sorted(set(files.values()))
        missing = [n for n in names if n not in present]
        if missing:
            raise SourceError(
                f"{len(missing)} of {len(names)} shards are missing: {', '.join(missing[:3])}",
                todo="fetch the model again; finished files are kept",
            )
        return WeightFiles(names=names, indexed=sorted(files), notes=_left_out(present, names))
    names = [n for n in present if n != ADAPTER] or present
    _refuse_incomplete(names)
    return WeightFiles(names=names)


def _single(index: Path, present: list[str]) -> WeightFiles:
    files: Mapping[str, str] = {}
    if index.is_file():
        try:
            files = weight_map(index.read_bytes())
        except FormatError:
            return WeightFiles(
                names=[SINGLE],
                notes=[f"{INDEX} is malformed and not used: {SINGLE} is the whole model"],
            )
    names = sorted(set(files.values()))
    if SINGLE in names:
        missing = [n for n in names if n not in present]
        if not missing:
            return WeightFiles(names=names, indexed=sorted(files), notes=_left_out(present, names))
    if files:
        note = (
            f"{INDEX} names other files ({', '.join(names[:2])}{' …' if len(names) > 2 else ''}): "
            f"it is left from another save and not used, the weights are those of {SINGLE}, which "
            "transformers reads too"
        )
        return WeightFiles(names=[SINGLE], notes=[note])
    return WeightFiles(names=[SINGLE], notes=_left_out(present, [SINGLE]))


def _left_out(present: list[str], names: list[str]) -> list[str]:
    """A note on weight files that are no part of the model."""
    others = [n for n in present if n not in names and n != ADAPTER]
    if not others:
        return []
    more = f" and {len(others) - 3} more" if len(others) > 3 else ""
    return [f"not read, as they are no part of the model: {', '.join(others[:3])}{more}"]


def _refuse_incomplete(names: list[str]) -> None:
    """SourceError when numbered shards without an index are not all there, or of two sets."""
    shards = [match for n in names if (match := _SHARD.fullmatch(n))]
    sets = sorted({(m[1], int(m[3])) for m in shards})
    if len(sets) > 1:
        raise SourceError(
            f"the folder holds shards of {len(sets)} sets, such as {shards[0][0]} and "
            f"{shards[-1][0]}, and no {INDEX} says which are the model",
            expected="the shards of one model",
            todo="move the other shards away, or fetch the index",
        )
    for name, count in sets:
        missing = sorted(set(range(1, count + 1)) - {int(m[2]) for m in shards})
        if missing:
            first = f"{name}-{missing[0]:05}-of-{count:05}.safetensors"
            raise SourceError(
                f"{len(missing)} of {count} shards are missing, such as {first}",
                todo="fetch the model again; finished files are kept",
            )
