"""Costs of encodings that were measured on this machine, kept in the cache folder.

One table for each processor, build of a runtime, number of threads and set of shapes: models of one
architecture and size share it.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path

from kanna._util import folders, verified
from kanna.errors import KannaError
from kanna.formats.base import Format
from kanna.hardware.cpu import cpu, default_threads
from kanna.hardware.encoding_speed import EncodingSpeeds
from kanna.hardware.encoding_speed_file import parse
from kanna.model import Model

_VERSION = 1
"""Of how they are measured."""


def shapes_mark(model: Model) -> str:
    """What stands for the shapes of a model: its architecture, and the shapes of all tensors."""
    shapes = sorted((name, list(t.shape)) for name, t in model.tensors.items())
    text = json.dumps([model.family, shapes])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def place(model: Model, threads: int, format: Format) -> Path:
    """Where the table for these shapes lies, or would lie.

    Args:
        model: Whose shapes they are.
        threads: That multiply.
        format: Whose runtime multiplies.
    """
    return _place(shapes_mark(model), threads, format)


def _place(shapes: str, threads: int, format: Format) -> Path:
    known = [_VERSION, cpu().model, sorted(cpu().flags), format.build(), threads]
    mark = hashlib.sha256(json.dumps([known, shapes]).encode()).hexdigest()[:16]
    return _folder() / f"{mark}.json"


def _folder() -> Path:
    return folders.cache_folder() / "encoding-speeds"


def cached(model: Model, format: Format, threads: int | None = None) -> EncodingSpeeds | None:
    """The table for these shapes; None where none is kept, or it is not what was written.

    Args:
        model: Whose shapes they are.
        format: Whose runtime multiplies.
        threads: That multiply; None: one per core.
    """
    return _kept(place(model, threads or default_threads(), format))


def _kept(path: Path) -> EncodingSpeeds | None:
    with suppress(OSError, ValueError, KannaError):
        if verified.unchanged(path):
            return parse(json.loads(path.read_text(encoding="utf-8")), str(path))
    return None


def all_of_this_machine(format: Format) -> list[EncodingSpeeds]:
    """Every whole table that was measured here, with a thread per core and the runtime as it is.

    Args:
        format: Whose runtime multiplied.
    """
    threads = default_threads()
    tables = [(path, _kept(path)) for path in sorted(_folder().glob("*.json"))]
    return [
        table
        for path, table in tables
        # The error is measured last. A table of another machine or build lies in another place.
        if table is not None
        and table.error is not None
        and path == _place(table.shapes, threads, format)
    ]


def keep(table: EncodingSpeeds, model: Model, format: Format) -> Path:
    """Keep a table; returns where.

    Args:
        table: What was measured, with so many threads.
        model: Whose shapes were multiplied.
        format: Whose runtime multiplied.
    """
    path = place(model, table.threads, format)
    with suppress(OSError):
        verified.keep(path, json.dumps(table.to_dict(), indent=1) + "\n")
    return path
