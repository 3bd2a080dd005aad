"""Rows of Parquet and Arrow files, and folders of `datasets`, as the objects lines of JSON are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from kanna._util import extras
from kanna.errors import UsageError

SUFFIXES = (".parquet", ".arrow")
_SPLITS, _LEARNED = "dataset_dict.json", "train"
"""Beside the splits of a folder that `DatasetDict.save_to_disk` wrote, and the one that is read."""
_COMPUTED = "cache-"
"""How files begin that `datasets` keeps of its own computations."""


def split_of(folder: Path) -> Path:
    """The folder with the rows to learn: of a `DatasetDict` that of its split `train`.

    Args:
        folder: Any folder.

    Raises:
        UsageError: It has splits, and none of this name.
    """
    if not (folder / _SPLITS).is_file():
        return folder
    if not (folder / _LEARNED).is_dir():
        raise UsageError(
            f"{folder} has splits, and none is called {_LEARNED}",
            expected=f"{folder / _LEARNED}",
            todo="name the folder of the split to learn",
        )
    return folder / _LEARNED


def is_data(path: Path) -> bool:
    """Whether a file of a folder has rows, and not what `datasets` computed of them."""
    return not (path.suffix == ".arrow" and path.name.startswith(_COMPUTED))


def rows(path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """Every row of a file, and its place.

    A column has a value in every row: one that is null is taken for one that is not there.

    Args:
        path: A Parquet file, or an Arrow file in either of its forms.

    Raises:
        MissingError: The extra `adapt` is not installed, which reads them.
        UsageError: It is no such file.
    """
    extras.require("adapt", f"reading {path.suffix} files", ("pyarrow",))
    import pyarrow

    number = 0
    try:
        for batch in _batches(path):
            for row in batch.to_pylist():
                number += 1
                yield cast(dict[str, Any], _without_nulls(row)), f"{path.name}, row {number}"
    except (pyarrow.ArrowException, OSError) as error:
        raise UsageError(
            f"{path} cannot be read after row {number}: {str(error).splitlines()[0]:.200}",
            expected="a whole Parquet file, or an Arrow file as datasets saves it",
            todo="save it again, or give the rows as .jsonl",
        ) from None


def _batches(path: Path) -> Iterator[Any]:
    import pyarrow

    if path.suffix == ".parquet":
        from pyarrow import parquet

        with parquet.ParquetFile(path) as table:
            yield from table.iter_batches(batch_size=1024)
        return
    with pyarrow.memory_map(str(path)) as mapped:
        try:
            reader = pyarrow.ipc.open_stream(mapped)
        except pyarrow.ArrowInvalid:  # not what datasets writes, but the form with an index
            whole = pyarrow.ipc.open_file(mapped)
            yield from map(whole.get_batch, range(whole.num_record_batches))
        else:
            yield from reader


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        pairs = cast(dict[str, Any], value).items()
        return {name: _without_nulls(one) for name, one in pairs if one is not None}
    if isinstance(value, list):
        return [_without_nulls(one) for one in cast(list[Any], value)]
    return value
