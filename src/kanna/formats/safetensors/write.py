"""Write a Hugging Face model folder."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from kanna._util.atomic import write_bytes
from kanna._util.progress import Progress, Silent
from kanna._util.special_files import is_special
from kanna.errors import OutputError
from kanna.formats.safetensors.read import DTYPES
from kanna.formats.safetensors.shards import INDEX, SINGLE
from kanna.formats.stream import File, WriteResult, check_output, fill, replacing
from kanna.model import U8, num_rows
from kanna.plan.types import TensorPlan

SHARD_BYTES = 5_000_000_000
_NAMES = {encoding: dtype for dtype, encoding in DTYPES.items()} | {"u32": "U32", "u8": "U8"}
_SIZES = {"u32": 4, "u8": 1, "f32": 4, "f16": 2, "bf16": 2}


def write_folder(
    folder: Path | str,
    *,
    tensors: Sequence[TensorPlan],
    files: Mapping[str, bytes],
    threads: int = 1,
    progress: Progress | None = None,
    shard_bytes: int = SHARD_BYTES,
    overwrite: bool = False,
    nonfinite: str = "refuse",
    maker: str = "pt",
    late: Callable[[], object] | None = None,
    single: str = SINGLE,
) -> WriteResult:
    """Stream tensors to `folder` as safetensors, with other files beside them.

    A matrix of an encoding of several planes becomes as many tensors.

    Args:
        folder: The folder to write, made if it is not there.
        tensors: What becomes of each tensor, in the order of their data.
        files: Contents of the other files (config.json, tokenizer.json, …), by name.
        threads: Row blocks that are encoded at once.
        progress: Where progress is reported; None: nowhere.
        shard_bytes: Bytes of a weight file at most.
        overwrite: Whether a folder that holds something may be written to.
        nonfinite: `refuse` raises EncodingError at the first NaN or infinity, `zero` stores zeros.
        maker: What the metadata calls the format.
        late: Called when weights are written, before a file has its name; it raises to refuse.
        single: Name of the weight file where there is one.
    """
    started = time.perf_counter()
    folder = Path(folder)
    planned = sum(s.total_bytes for s in _shards(folder, tensors, shard_bytes, maker, single))
    check_folder(folder, overwrite=overwrite, needed=planned + sum(map(len, files.values())))
    with _made(folder) as made:
        shards = _shards(made, tensors, shard_bytes, maker, single)
        if late is not None:
            shards[-1] = replace(shards[-1], late=lambda: _nothing_after(late))
        peak = fill(
            shards,
            threads=threads,
            progress=progress or Silent(),
            nonfinite=nonfinite,
            stage="write",
        )
        _write_beside(made, shards, files)
    return WriteResult(
        paths=[folder / s.path.name for s in shards],
        file_bytes=planned,
        seconds=time.perf_counter() - started,
        peak_bytes=peak,
    )


def _write_beside(folder: Path, shards: Sequence[File], files: Mapping[str, bytes]) -> None:
    """Write the files beside the weights, and remove weights of a model that was there before."""
    side = dict(files)
    if len(shards) > 1:
        tensors = [e for s in shards for e in s.tensors]
        names = {n: s.path.name for s in shards for e in s.tensors for n in stored_names(e)}
        side[INDEX] = _dump(
            {"metadata": {"total_size": sum(t.nbytes for t in tensors)}, "weight_map": names}
        )
    for name, data in side.items():
        _refuse_link((folder / name).parent, folder)
        (folder / name).parent.mkdir(exist_ok=True)  # templates lie in a folder of their own
        write_bytes(folder / name, data)
    # Weights of the model that was here before would be taken for parts of this one.
    for old in [*folder.glob("*.safetensors"), folder / INDEX]:
        if old.name not in side and all(old != s.path for s in shards):
            old.unlink(missing_ok=True)


@contextmanager
def _made(folder: Path) -> Generator[Path]:
    """Where the files are written: a new folder gets its name when it is complete.

    One that is there stays, with whatever else it holds: it may be a link, or a mounted volume.
    """
    if folder.is_dir():
        yield folder
        return
    with replacing(folder) as made:
        made.mkdir()
        yield made


def _nothing_after(late: Callable[[], object]) -> list[tuple[int, bytes]]:
    late()
    return []


def _refuse_link(below: Path, folder: Path) -> None:
    """OutputError when a folder inside the output is a link, through which others would be written.

    The output itself may be one: that is how the user calls it.
    """
    if below != folder and below.is_symlink():
        raise OutputError(
            f"{below} is a link, to {below.readlink()}",
            expected="a folder of the model itself",
            todo="remove it, or choose another folder",
        )


def check_folder(folder: Path, *, overwrite: bool, needed: int) -> None:
    """Raise OutputError when the folder cannot be written.

    That is when it is a file, holds something (without `overwrite`), or has too little space for
    `needed` bytes.
    """
    if folder.is_file() and not is_special(folder):
        raise OutputError(f"{folder} is a file", expected="the name of a folder")
    if not folder.is_dir():
        check_output([folder], overwrite=True, needed=needed)
        return
    if any(folder.iterdir()) and not overwrite:
        raise OutputError(
            f"{folder} is not empty",
            expected="a new folder, or an empty one",
            todo="choose another folder, or pass --overwrite",
        )
    check_output([folder / SINGLE], overwrite=True, needed=needed)


def folder_bytes(
    tensors: Sequence[TensorPlan], shard_bytes: int = SHARD_BYTES, maker: str = "pt"
) -> int:
    """Bytes of the weight files that `write_folder` writes, headers included."""
    return sum(s.total_bytes for s in _shards(Path(), tensors, shard_bytes, maker))


def stored_names(entry: TensorPlan) -> list[str]:
    """Names of the tensors that a planned one becomes in the file."""
    base = entry.name.removesuffix(".weight")
    return [f"{base}.{p.name}" for p in entry.encoding.planes] or [entry.name]


def _shards(
    folder: Path, tensors: Sequence[TensorPlan], limit: int, maker: str, single: str = SINGLE
) -> list[File]:
    groups: list[list[TensorPlan]] = [[]]
    used = 0
    for entry in tensors:
        if groups[-1] and used + entry.nbytes > limit:
            groups.append([])
            used = 0
        groups[-1].append(entry)
        used += entry.nbytes
    if len(groups) == 1:
        return [_file(folder / single, groups[0], maker)]
    return [
        _file(folder / f"model-{i:05}-of-{len(groups):05}.safetensors", group, maker)
        for i, group in enumerate(groups, 1)
    ]


def _file(path: Path, tensors: Sequence[TensorPlan], maker: str) -> File:
    header: dict[str, Any] = {"__metadata__": {"format": maker}}
    at = 0
    for entry in tensors:
        for name, (dtype, shape, size) in zip(stored_names(entry), _parts(entry), strict=True):
            header[name] = {"dtype": _NAMES[dtype], "shape": shape, "data_offsets": [at, at + size]}
            at += size
    text = _dump(header)
    text += b" " * (-len(text) % 8)
    start = 8 + len(text)

    def spread(entry: TensorPlan, first: int, data: U8) -> list[tuple[int, U8]] | None:
        if not entry.encoding.planes:
            return None
        parts = zip(stored_names(entry), entry.encoding.split(data), strict=True)
        return [
            (start + header[name]["data_offsets"][0] + first * part.shape[1], part)
            for name, part in parts
        ]

    return File(
        path=path,
        header=len(text).to_bytes(8, "little") + text,
        offsets=[start + header[stored_names(e)[0]]["data_offsets"][0] for e in tensors],
        tensors=tensors,
        total_bytes=start + at,
        spread=spread,
    )


def _parts(entry: TensorPlan) -> list[tuple[str, list[int], int]]:
    """dtype, shape and bytes of each tensor that `entry` becomes."""
    encoding, shape = entry.encoding, list(entry.tensor.shape)
    if encoding.planes:
        blocks, rows = shape[-1] // encoding.block, num_rows(entry.tensor)
        widths = [(p.dtype, blocks * p.bytes) for p in encoding.planes]
        return [
            (dtype, [*shape[:-1], width // _SIZES[dtype]], rows * width) for dtype, width in widths
        ]
    if encoding.name not in _NAMES:
        raise OutputError(
            f"safetensors cannot hold {encoding.label}", expected=", ".join(DTYPES.values())
        )
    return [(encoding.name, shape, entry.nbytes)]


def _dump(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
