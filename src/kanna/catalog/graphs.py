"""Graphs: how a graph of ONNX is made, and what is done to it then.

Presets of ONNX decide which.
"""

from __future__ import annotations

from collections.abc import Iterator

from kanna.catalog.base import Component, Kind, of_module, of_object, options
from kanna.formats.onnx import build, fp16_storage, graph_fixes, int8, int8_worker, quantize, smooth

_KIND = "graphs"
_FILES = {
    "build": (build, "build"),
    "mend": (graph_fixes, "mend"),
    "nbits": (quantize, "prepare"),
    "halve": (fp16_storage, "halve"),
    "smooth": (smooth, "best"),
    "int8": (int8, "quantize"),
}
_STEPS = (int8_worker.share_embedding, int8_worker.quantize_embedding)


def _find() -> Iterator[Component]:
    for name, (module, function) in _FILES.items():
        named = options(
            getattr(module, function),
            only=("calibrator", "include", "exclude", "smoothing", "encoding"),
        )
        yield of_module(_KIND, name, module, function, extra=build.EXTRA, options=named)
    for step in _STEPS:
        yield of_object(_KIND, step.__name__.replace("_", "-"), step, extra=build.EXTRA)


KIND = Kind(find=_find)
