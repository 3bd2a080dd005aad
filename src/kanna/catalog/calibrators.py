"""Calibrators: where inputs of matrices and ranges of activations are learned from.

Texts are named by `--calibration`, importance matrices by `--imatrix`; ranges are those of the
presets `onnx:w8a8`.
"""

from __future__ import annotations

from collections.abc import Iterator

from kanna.calibration import EXTRA, TEXTS, calibrate, imatrix
from kanna.catalog.base import Component, Kind, of_module, options
from kanna.formats.onnx import ranges

_KIND = "calibrators"


def _find() -> Iterator[Component]:
    settings = options(calibrate, only=("tokens", "widest", "device"))
    for name, summary in TEXTS.items():
        yield Component(
            kind=_KIND,
            name=name,
            summary=summary,
            where=f"{calibrate.__module__}:TEXTS",
            extra=EXTRA,
            options=settings,
        )
    yield of_module(_KIND, "imatrix", imatrix, "read")
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


KIND = Kind(find=_find)
