"""`compare` as a step: several presets and formats side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from kanna.recipes.document import Value
from kanna.recipes.verbs.base import (
    IMATRIX,
    MODEL,
    REPORT,
    SAME,
    TEXT,
    Figure,
    Prediction,
    StepFile,
    StepVerb,
    at,
    kinds,
    loaded,
)

if TYPE_CHECKING:
    from kanna.comparison.formats import PresetChoice


def _of_best(key: str) -> Figure:
    """A figure of the recommended file."""

    def read(result: Value) -> Value:
        rows, name = at("rows")(result), at("recommended", "name")(result)
        for row in rows if isinstance(rows, list) else ():
            if name is not None and at("name")(row) == name:
                return at(key)(row)
        return None

    return read


def _names(value: Value) -> list[str]:
    from kanna._util.arguments import names

    if isinstance(value, list):
        return names(one for one in value if isinstance(one, str))
    return names(value if isinstance(value, str) else None)


def _choices(options: Mapping[str, Value]) -> list[PresetChoice]:
    from kanna import formats
    from kanna.comparison.formats import choices

    presets = _names(options.get("presets")) or None
    return choices(_names(options.get("formats")) or [formats.DEFAULT], presets)


def _check(options: Mapping[str, Value]) -> None:
    _choices(options)


def _predict(options: Mapping[str, Value]) -> Prediction:
    from kanna import fit
    from kanna._util.progress import Silent

    source, chosen = str(options["source"]), _choices(options)
    rows = [
        row
        for format in dict.fromkeys(one.format for one in chosen)
        for row in fit(source, format=format, progress=Silent()).rows
        if any(one.format == format and one.preset == row.preset for one in chosen)
    ]
    return Prediction(
        file_bytes=sum(row.file_bytes for row in rows) or None,
        memory_bytes=max((row.memory_bytes for row in rows), default=None),
        what="the presets together, from the headers",
    )


VERB = StepVerb(
    inputs={
        "source": kinds(MODEL),
        "text": kinds(TEXT),
        "imatrix": kinds(IMATRIX),
    },
    outputs={
        "artefact": StepFile(kind=MODEL, path=_of_best("path"), about="the recommended file"),
        "report": StepFile(kind=REPORT, path=at("report"), about="the comparison"),
    },
    figures={
        "recommended": at("recommended", "name"),
        **{
            key: _of_best(key)
            for key in (
                "file_bytes",
                "bits_per_weight",
                "kl_mean",
                "top1",
                "grade",
                "perplexity",
                "gen_tps",
                "peak_bytes",
                "gate",
            )
        },
    },
    out=lambda step, _: step,
    resumes=SAME,
    measures=True,
    remarks=True,
    own=frozenset({"overwrite"}),
    check=_check,
    predict=_predict,
    runs=True,
    memory=loaded(5),
)
