"""Fill planned files: tensors flow in row blocks from their source to their place, never whole.

Row blocks are cut by size alone, so the bytes are the same for any number of threads.
"""

from __future__ import annotations

import functools
import os
import shutil
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from threading import BoundedSemaphore, Lock

import numpy as np

from kanna import methods
from kanna._util import locks, own_files
from kanna._util.disk import explain, sync_file, sync_folder, writing_behind
from kanna._util.peak_memory import Peak
from kanna._util.progress import Progress, remark
from kanna._util.special_files import is_special
from kanna.encodings import transcoding
from kanna.errors import EncodingError, OutputError
from kanna.formats import not_numbers, overflow, stored_file
from kanna.methods import device as devices
from kanna.model import U8, columns, num_rows
from kanna.plan.tuning import scaled
from kanna.plan.types import TensorPlan

BLOCK_WEIGHTS = 1 << 19
_ON_DEVICE = BoundedSemaphore(3)
"""Row blocks for a device, which are large, that are in memory at once."""
# Exponent bits that are all set only in NaN and infinity, for the types that are carried without
# decoding.
_NONFINITE = {
    "f32": (np.uint32, 0x7F800000),
    "f16": (np.uint16, 0x7C00),
    "bf16": (np.uint16, 0x7F80),
}


Spread = Callable[[TensorPlan, int, U8], "Iterable[tuple[int, U8]] | None"] | None
"""See `File.spread`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """One file to write: its header, then each tensor at its offset.

    Attributes:
        late: Gives (offset, bytes) of what is known only once the tensors are written, over what
            stood there.
        spread: Of encoded rows from `start`, (offset, bytes) of the arrays they are split into;
            None: they stay together.
    """

    path: Path
    header: bytes
    offsets: Sequence[int]
    tensors: Sequence[TensorPlan]
    total_bytes: int
    late: Callable[[], Iterable[tuple[int, bytes]]] | None = None
    spread: Spread = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteResult:
    """What was written.

    Attributes:
        paths: In order.
        file_bytes: Of all of them.
        seconds: That it took.
        peak_bytes: Most memory of our own meanwhile.
        notes: What the user should know.
    """

    paths: list[Path]
    file_bytes: int
    seconds: float
    peak_bytes: int
    notes: list[str] = field(default_factory=list[str])


def check_output(paths: Sequence[Path], *, overwrite: bool, needed: int = 0) -> None:
    """Raise OutputError when the files cannot be written.

    That is when they exist, are a device or a pipe, or their folder is missing, read-only or has
    too little space.
    """
    for path in paths:
        if is_special(path):
            raise OutputError(
                f"{path} is no plain file",
                expected="the name of a file: nothing is streamed to a device or a pipe",
                todo="name a file, or pass --dry-run to only see the sizes",
            )
        if path.is_dir():
            raise OutputError(f"{path} is a folder", expected="the name of a file")
        if path.exists() and not overwrite:
            raise OutputError(f"{path} exists", todo="choose another name, or pass --overwrite")
    folder = paths[0].absolute().parent
    if not folder.is_dir():
        raise OutputError(f"the folder {folder} does not exist", todo=f"make it: mkdir -p {folder}")
    if not os.access(folder, os.W_OK):
        raise OutputError(f"{folder} is read-only", todo="write to another folder")
    # What an interrupted run left is about to be removed: its space is ours.
    left = [p.with_name(p.name + own_files.PARTIAL) for p in paths]
    left += own_files.left_by_others(folder)
    free = shutil.disk_usage(folder).free + sum(map(_size, left))
    if needed > free:
        raise OutputError(
            f"{folder} has {free / 1e6:.1f} MB free",
            expected=f"{needed / 1e6:.1f} MB",
            todo="free some space",
        )


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def fill(
    files: Sequence[File], *, threads: int, progress: Progress, nonfinite: str, stage: str
) -> int:
    """Write every file under a fresh name, sync and rename them all.

    Whatever goes wrong, no file appears under its final name and no partial file stays.

    Args:
        files: The planned files, all in one folder.
        threads: Row blocks that are encoded at once.
        progress: Where progress is reported, in bytes.
        nonfinite: `refuse` raises EncodingError at the first NaN or infinity, `zero` stores zeros
            instead.
        stage: What the progress is called.

    Returns:
        The peak of our own memory in bytes.
    """
    peak = Peak()
    partials = [own_files.fresh_name(f.path) for f in files]
    with ExitStack() as locked:
        for file in files:
            locked.enter_context(locks.holding(file.path, "convert"))
            own_files.sweep_for(file.path)
        progress.start(stage, sum(f.total_bytes for f in files))
        try:
            for file, path in zip(files, partials, strict=True):
                _fill(file, path, threads, progress, nonfinite, peak)
            stored_file.refuse_changes()
            for file, path in zip(files, partials, strict=True):
                path.replace(file.path)
            sync_folder(files[0].path.absolute().parent)
        except OSError as error:
            raise explain(error, files[0].path) from error
        finally:
            for path in partials:
                own_files.remove(path)
            for text in devices.remarks.taken():
                remark(progress, text)
            progress.finish()
    return peak.look()


@contextmanager
def replacing(out: Path) -> Generator[Path, None, None]:
    """A folder to make and fill, which becomes `out` when the block ends.

    Its files are synced, then it is renamed. On an error it is removed and `out` stays as it was.

    Raises:
        OutputError: The system refuses.
    """
    with locks.holding(out, "convert"):
        own_files.sweep_for(out)
        folder = own_files.fresh_name(out)
        try:
            yield folder
            for path in folder.rglob("*"):
                if path.is_file():
                    sync_file(path)
            stored_file.refuse_changes()
            own_files.put(folder, out)
        except OSError as error:
            raise explain(error, out) from error
        finally:
            own_files.remove(folder)


def _fill(
    file: File, path: Path, threads: int, progress: Progress, nonfinite: str, peak: Peak
) -> None:
    with own_files.create(path) as out, writing_behind(out.fileno()) as wrote:
        sink = _Sink(out.fileno())
        sink.write(0, file.header)
        write = functools.partial(_write_block, sink, nonfinite, file.spread)
        progress.advance(len(file.header))
        jobs = _jobs(file)
        blocks = _one_by_one(jobs, write) if threads <= 1 else _pool(jobs, write, threads)
        with closing(blocks):  # no thread writes once the file is closed
            for count, name in blocks:
                progress.advance(count, name)
                peak.look()
                wrote(count)
        for offset, data in file.late() if file.late else ():
            sink.write(offset, data)
        os.ftruncate(out.fileno(), file.total_bytes) if hasattr(os, "ftruncate") else out.truncate(
            file.total_bytes
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _RowBlock:
    """Rows [start, stop) of a tensor, and where in the file their bytes go."""

    entry: TensorPlan
    start: int
    stop: int
    offset: int


def _jobs(file: File) -> Iterator[_RowBlock]:
    """Every row block of a file, in the order of the tensors."""
    for entry, offset in zip(file.tensors, file.offsets, strict=True):
        cols, total = columns(entry.tensor), num_rows(entry.tensor)
        size = entry.encoding.row_bytes(cols)
        together = BLOCK_WEIGHTS if entry.device == devices.CPU else devices.BLOCK_WEIGHTS
        step = max(1, together // cols)
        # Experts have statistics of their own: no row block crosses from one to the next.
        group = total // _experts(entry)
        for first in range(0, total, max(1, group)):
            for start in range(first, first + group, step):
                yield _RowBlock(
                    entry=entry,
                    start=start,
                    stop=min(start + step, first + group),
                    offset=offset + start * size,
                )


def _one_by_one(
    jobs: Iterator[_RowBlock], write: Callable[[_RowBlock], int]
) -> Generator[tuple[int, str]]:
    """Write row blocks here; the bytes of each and the name of its tensor."""
    for job in jobs:
        yield write(job), job.entry.name


def _pool(
    jobs: Iterator[_RowBlock], write: Callable[[_RowBlock], int], threads: int
) -> Generator[tuple[int, str]]:
    """The same in several threads, a few blocks waiting at a time."""
    waiting: deque[tuple[Future[int], str]] = deque()
    with ThreadPoolExecutor(threads, "kanna") as pool:
        try:
            for job in jobs:
                waiting.append((pool.submit(write, job), job.entry.name))
                if len(waiting) > 2 * threads:
                    future, name = waiting.popleft()
                    yield future.result(), name
            for future, name in waiting:
                yield future.result(), name
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _write_block(sink: _Sink, nonfinite: str, spread: Spread, block: _RowBlock) -> int:
    """Encode a row block and write it; its bytes."""
    with nullcontext() if block.entry.device == devices.CPU else _ON_DEVICE:
        data = encode_rows(block.entry, block.start, block.stop, nonfinite)
    pieces = spread(block.entry, block.start, data) if spread else None
    for at, piece in [(block.offset, data)] if pieces is None else pieces:
        sink.write(at, np.ascontiguousarray(piece).data.cast("B"))
    return data.nbytes


def encode_rows(entry: TensorPlan, start: int, stop: int, nonfinite: str = "refuse") -> U8:
    """Rows [start, stop) of a tensor in its planned encoding, uint8 [rows, row bytes]."""
    data = _encoded(entry, start, stop, nonfinite)
    if entry.scale is None:
        return data
    offset = None if entry.offset is None else entry.offset[start:stop]
    return scaled(entry.encoding, data, columns(entry.tensor), entry.scale[start:stop], offset)


def _encoded(entry: TensorPlan, start: int, stop: int, nonfinite: str) -> U8:
    tensor, encoding = entry.tensor, entry.encoding
    try:
        if tensor.dtype == encoding.name:
            data = tensor.raw(start, stop)
            if data is not None and _is_finite(encoding.name, data):
                return data
        elif encoding.block > 1 and (data := tensor.raw(start, stop)) is not None:
            same = transcoding.transcode(tensor.dtype, encoding.name, data)
            if same is not None:
                return same
        x = tensor.rows(start, stop)
        if nonfinite == "zero":
            x = np.nan_to_num(x, nan=0.0, posinf=0.0, neginf=0.0)
        elif encoding.name in _NONFINITE and not np.isfinite(x).all():
            raise EncodingError(
                f"{int((~np.isfinite(x)).sum())} of {x.size} values are NaN or infinite"
            )
        method, inputs = methods.get(entry.method), _inputs(entry, start)
        rows = method.encode(encoding, x, inputs)
        overflow.check(encoding, method, x, inputs, rows)
        return rows
    except EncodingError as error:
        at = not_numbers.place(tensor, start, stop)
        if not at:
            raise EncodingError(
                f"{entry.name}: {error.found}", expected=error.expected, todo=error.todo
            ) from error
        raise EncodingError(
            f"{at}, holds NaN or infinity ({error.found})",
            expected=not_numbers.EXPECTED,
            todo=not_numbers.TODO,
        ) from error


def _is_finite(name: str, data: U8) -> bool:
    kind = _NONFINITE.get(name)
    if kind is None:
        return True
    dtype, mask = kind
    bits = np.ascontiguousarray(data).view(dtype)
    return not bits.size or bool((bits & dtype(mask)).max() < mask)


def _experts(entry: TensorPlan) -> int:
    """Into how many runs of rows a tensor falls, each with inputs of its own."""
    if entry.weights is not None and entry.weights.ndim == 2:
        return entry.weights.shape[0]
    if entry.weights is None and entry.prior is not None and len(entry.tensor.shape) == 3:
        return entry.tensor.shape[0]
    return 1 if entry.second_moment is None else entry.second_moment.experts


def _inputs(entry: TensorPlan, start: int) -> methods.Inputs:
    """What is known of the inputs of these rows; each expert has its own."""
    weights, second_moment = entry.weights, entry.second_moment
    expert = start // max(1, num_rows(entry.tensor) // _experts(entry))
    guessed = weights is None and entry.prior is not None
    if weights is None and entry.prior is not None:
        weights = entry.prior.weights()
    if weights is not None and weights.ndim == 2:
        weights = weights[expert]
    if second_moment is not None:
        second_moment = second_moment.of(expert)
    return methods.Inputs(weights=weights, guessed=guessed, second_moment=second_moment)


class _Sink:
    """Writes at any offset from any thread."""

    def __init__(self, handle: int) -> None:
        self._handle, self._lock = handle, Lock()

    def write(self, offset: int, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view.nbytes:
            if hasattr(os, "pwrite"):
                done = os.pwrite(self._handle, view, offset)
            else:  # Windows
                with self._lock:
                    os.lseek(self._handle, offset, os.SEEK_SET)
                    done = os.write(self._handle, view)
            view, offset = view[done:], offset + done
