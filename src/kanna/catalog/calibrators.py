"""Components of the kind `calibrators`."""

from __future__ import annotations

from collections.abc import Iterator

from kanna.calibration import EXTRA, TEXTS, calibrate, imatrix
from kanna.catalog.base import Component, Kind, command_options, of_module
from kanna.formats.onnx import ranges

_KIND = "calibrators"


def _find() -> Iterator[Component]:
    settings = command_options("calibrate", calibrate, only=("tokens", "device"))
    for name, summary in TEXTS.items():
        yield Component(
            kind=_KIND,
            name=name,
            summary=summary,
            where=f"{calibrate.__module__}:TEXTS",
            extra=EXTRA,
            options=settings,
        )
    yield of_module(
        _KIND,
        "imatrix",
        imatrix,
        "read",
        summary=(
            "Importance matrices: how strongly each column of a tensor is used, "
            "measured by llama.cpp on text"
        ),
    )
    for name, summary in ranges.CALIBRATORS.items():
        facts = {"per cent kept": ranges.PERCENTILE} if name == "percentile" else {}
        summary = summary[0].upper() + summary[1:]
        yield Component(
            kind=_KIND,
            name=name,
            summary=summary,
            where=f"{ranges.__name__}:CALIBRATORS",
            extra="onnx",
            facts=facts,
        )


KIND = Kind(
    summary="Calibrators: where inputs of matrices and ranges of activations are learned from",
    about=(
        "Texts are named by `--calibration`, importance matrices by `--imatrix`; ranges are "
        "those of the presets `onnx:w8a8`."
    ),
    find=_find,
)
