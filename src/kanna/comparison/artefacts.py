"""Makes the artefacts of a comparison, and keeps those that are there already."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kanna import __version__, formats
from kanna._util.digest import sha256
from kanna.benchmark import file_bytes
from kanna.calibration import statistics
from kanna.comparison.context import ComparisonContext
from kanna.comparison.rows import Row
from kanna.conversion import ConversionRequest, WriteOptions, convert
from kanna.errors import KannaError
from kanna.escaping import shell_path
from kanna.formats import gguf
from kanna.hardware.cpu import default_threads
from kanna.plan import Plan, load
from kanna.provenance import TUNING

_MADE = "made"
"""Kind of the results that remember by which command a folder was made."""


def make(
    row: Row, request: ConversionRequest, context: ComparisonContext, *, overwrite: bool
) -> None:
    """Convert, or keep the artefact that is there when it is what would be written.

    Args:
        row: What `planned_row` gave; gets its bytes, seconds and command.
        request: How the artefact is converted.
        context: The comparison.
        overwrite: Make it again in any case.
    """
    path = Path(row.path or "")
    in_folder = not formats.get(row.format).suffix
    if overwrite or not path.exists():
        row.reused = False
    elif in_folder:
        row.reused = context.cache.get(str(path), _MADE, row.command) is not None
    else:
        row.reused = is_same(path, row, request, context)
    if not row.reused:
        options = WriteOptions(
            threads=context.threads or default_threads(),
            overwrite=True,
            progress=context.progress,
        )
        row.seconds = convert(context.source, path, request, options=options).seconds
        if in_folder:
            context.cache.put(str(path), _MADE, {}, row.command)
    row.file_bytes = file_bytes(path)  # of a folder, its tokenizer too: that of a GGUF is inside
    row.command += f" -o {shell_path(path.name)}"


def is_same(path: Path, row: Row, request: ConversionRequest, context: ComparisonContext) -> bool:
    """Whether the file at `path` is what would be written.

    It has the same size, tensors, source, statistics and version. The metadata is compared too: a
    tokenizer or chat template that was corrected makes another artefact.
    """
    try:
        file = gguf.read(path)
        recorded = json.loads(str(file.value("kanna.source.sha256") or "{}"))
    except (KannaError, ValueError):
        return False
    imatrix = sha256(Path(request.imatrix)) if request.imatrix else None
    calibrated = statistics.read(request.statistics).sha256 if request.statistics else None
    plan = request.plan
    tuning = (plan if isinstance(plan, Plan) else load(plan)).tuned() if plan else None
    return (
        path.stat().st_size == row.file_bytes
        and file.value("kanna.version") == __version__
        and file.value("kanna.plan") == row.preset
        and file.value("kanna.command") == row.command
        and file.value("kanna.imatrix.sha256") == imatrix
        and file.value("kanna.statistics.sha256") == calibrated
        and file.value(TUNING) == (tuning.sha256 if tuning else None)
        and recorded == context.source.hashes(context.progress)
        and {t.name: t.dtype for t in file.tensors.values()}
        == {t["name"]: t["encoding"] for t in row.tensors}
        and all(
            _equal(file.value(key), meta.value)
            for key, meta in context.model.metadata.items()
            if _carried(key)
        )
    )


def _carried(key: str) -> bool:
    """Whether an artefact has this key of its source unchanged."""
    return not key.startswith(("kanna.", "quantize.")) and key not in (
        "general.file_type",
        "general.quantization_version",
    )


def _equal(a: Any, b: Any) -> bool:
    """Equal as stored: lists and arrays by element, floats as float32."""
    if hasattr(a, "__len__") and hasattr(b, "__len__") and not isinstance(a, str):
        return len(a) == len(b) and all(map(_equal, a, b))
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        return abs(a - b) <= 1e-6 * max(1.0, abs(b))
    return bool(a == b)
