"""`calibrate` as a step: the statistics of a source."""

from __future__ import annotations

from kanna.recipes.verbs.base import (
    ADAPTER,
    ANY,
    IMATRIX,
    MODEL,
    STATISTICS,
    TEXT,
    Figure,
    StepFile,
    StepVerb,
    at,
    kinds,
    loaded,
)


def _inside(name: str) -> Figure:
    folder = at("folder")

    def path(result: object) -> str | None:
        value = folder(result)  # pyright: ignore[reportArgumentType]
        return f"{value}/{name}" if isinstance(value, str) else None

    return path


VERB = StepVerb(
    inputs={"source": kinds(MODEL), "calibration": kinds(TEXT), "adapter": kinds(ADAPTER)},
    outputs={
        "statistics": StepFile(kind=STATISTICS, path=at("folder"), about="for convert"),
        "imatrix": StepFile(kind=IMATRIX, path=_inside("imatrix.gguf"), about="for llama.cpp"),
    },
    figures={"tokens": at("tokens"), "sites": at("sites"), "held_tokens": at("held_tokens")},
    out=lambda step, _: step,
    resumes=ANY,
    words=frozenset({"self"}),
    own=frozenset({"overwrite"}),
    memory=loaded(4),
)
