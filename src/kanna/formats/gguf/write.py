"""Write a GGUF file, or the parts of a split one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from kanna._util.progress import Progress, Silent
from kanna.errors import OutputError
from kanna.formats.gguf.layout import Layout, layout, pack_value
from kanna.formats.stream import File, WriteResult, check_output, fill
from kanna.model import MetaValue, ValueType
from kanna.plan.types import TensorPlan

Late = Callable[[], Mapping[str, MetaValue]]


def plan_files(
    path: Path,
    metadata: Mapping[str, MetaValue],
    tensors: Sequence[TensorPlan],
    split_max_size: int | None = None,
    late: Late | None = None,
) -> list[File]:
    """The files a model becomes: one, or parts of at most `split_max_size` bytes each."""
    whole = layout(metadata, tensors)
    if split_max_size is None or whole.total_bytes <= split_max_size:
        return [_file(path, whole, tensors, late)]
    groups = _groups(metadata, tensors, split_max_size)
    stem = path.name.removesuffix(".gguf")
    files: list[File] = []
    for number, group in enumerate(groups):
        keys = dict(metadata) if number == 0 else {}
        keys |= {
            "split.no": MetaValue(number, ValueType.U16),
            "split.count": MetaValue(len(groups), ValueType.U16),
            "split.tensors.count": MetaValue(len(tensors), ValueType.I32),
        }
        name = f"{stem}-{number + 1:05}-of-{len(groups):05}.gguf"
        files.append(
            _file(path.with_name(name), layout(keys, group), group, late if number == 0 else None)
        )
    return files


def _file(path: Path, plan: Layout, tensors: Sequence[TensorPlan], late: Late | None) -> File:
    file = File(
        path=path,
        header=plan.header,
        offsets=plan.offsets,
        tensors=tensors,
        total_bytes=plan.total_bytes,
    )
    return replace(file, late=lambda: _patches(plan, late())) if late else file


def _patches(plan: Layout, values: Mapping[str, MetaValue]) -> Iterator[tuple[int, bytes]]:
    for key, value in values.items():
        (start, stop), data = plan.places[key], pack_value(key, value)
        if len(data) != stop - start:
            raise ValueError(f"{key} takes {len(data)} bytes where {stop - start} were left for it")
        yield start, data


def _groups(
    metadata: Mapping[str, MetaValue], tensors: Sequence[TensorPlan], limit: int
) -> list[list[TensorPlan]]:
    # Room for the split.* keys, the padding and the entries of a part that has no other metadata.
    head, rest = len(layout(metadata, []).header) + 256, 512
    groups: list[list[TensorPlan]] = [[]]
    used = head
    for entry in tensors:
        size = entry.nbytes + 128 + len(entry.name)
        if size + rest > limit:
            raise OutputError(
                f"{entry.name} alone takes {entry.nbytes} bytes",
                expected=f"parts of at most {limit}",
                todo="raise --split-max-size",
            )
        if used + size > limit and (groups[-1] or len(groups) == 1):
            groups.append([])
            used = rest
        groups[-1].append(entry)
        used += size
    return groups


def write(
    path: Path | str,
    *,
    metadata: Mapping[str, MetaValue],
    tensors: Sequence[TensorPlan],
    threads: int = 1,
    progress: Progress | None = None,
    split_max_size: int | None = None,
    overwrite: bool = False,
    nonfinite: str = "refuse",
    late: Late | None = None,
) -> WriteResult:
    """Stream a model to `path`.

    The file has its name only when it is complete and synced; an interrupted run leaves at most
    NAME.partial behind (after kill -9), which the next run replaces.

    Args:
        path: The file; the parts of a split one are named after it.
        metadata: Keys and values, in the order they are written.
        tensors: What becomes of each tensor, in the order of their data.
        threads: Row blocks that are encoded at once.
        progress: Where progress is reported; None: nowhere.
        split_max_size: Bytes of a part at most; None: one file.
        overwrite: Whether a file of that name may be replaced.
        nonfinite: `refuse` raises EncodingError at the first NaN or infinity, `zero` stores zeros.
        late: Called when the tensors are written, for values that replace some of `metadata` and
            are as long.

    Raises:
        OutputError: The file cannot be written; mostly before its first byte.
        EncodingError: A tensor cannot be encoded; the message names it.
    """
    started = time.perf_counter()
    files = plan_files(Path(path), metadata, tensors, split_max_size, late)
    total = sum(f.total_bytes for f in files)
    check_output([f.path for f in files], overwrite=overwrite, needed=total)
    peak = fill(
        files, threads=threads, progress=progress or Silent(), nonfinite=nonfinite, stage="write"
    )
    return WriteResult(
        paths=[f.path for f in files],
        file_bytes=total,
        seconds=time.perf_counter() - started,
        peak_bytes=peak,
    )
