"""`convert` as a step: one artefact."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from kanna.recipes.document import Value
from kanna.recipes.verbs.base import (
    ADAPTER,
    IMATRIX,
    MODEL,
    PLAN,
    STATISTICS,
    Prediction,
    StepFile,
    StepVerb,
    at,
    kinds,
    loaded,
    streamed,
)

if TYPE_CHECKING:
    from kanna.conversion import ConvertResult


def _format(options: Mapping[str, Value]) -> tuple[str, str | None]:
    from kanna import formats  # loads every format

    format, preset = options.get("format"), options.get("preset")
    return formats.parse_preset(
        format if isinstance(format, str) else None, preset if isinstance(preset, str) else None
    )


def _out(step: str, options: Mapping[str, Value]) -> str:
    from kanna import formats

    return step + formats.get(_format(options)[0]).suffix


def _check(options: Mapping[str, Value]) -> None:
    from kanna import formats

    format, preset = _format(options)
    known = formats.get(format)
    if preset is not None:
        known.canonical(preset)


def _predict(options: Mapping[str, Value]) -> Prediction:
    from kanna import convert, fit
    from kanna._util.progress import Silent

    describe: Callable[..., ConvertResult] = convert
    result = describe(**{**options, "dry_run": True, "verify": False, "progress": Silent()})
    format, _ = _format(options)
    rows = fit(str(options["source"]), format=format, progress=Silent()).rows
    memory = next((row.memory_bytes for row in rows if row.preset == result.preset), None)
    return Prediction(file_bytes=result.file_bytes, memory_bytes=memory, what="from the headers")


def _memory(options: Mapping[str, Value], weights: int) -> int:
    from kanna import formats

    # Where a library makes the graph, as the note on sizes says, it makes it of floats.
    graph = bool(formats.get(_format(options)[0]).size_note)
    return loaded(8)(options, weights) if graph else streamed(options, weights)


VERB = StepVerb(
    inputs={
        "source": kinds(MODEL),
        "imatrix": kinds(IMATRIX),
        "statistics": kinds(STATISTICS),
        "plan": kinds(PLAN),
        "adapter": kinds(ADAPTER),
    },
    outputs={"artefact": StepFile(kind=MODEL, path=at("paths", 0), about="the file or folder")},
    figures={
        "file_bytes": at("file_bytes"),
        "bits_per_weight": at("bits_per_weight"),
        "gate": at("verify", "status"),
        "peak_bytes": at("peak_bytes"),
    },
    out=_out,
    own=frozenset({"dry_run", "overwrite"}),
    check=_check,
    predict=_predict,
    memory=_memory,
)
