"""Graphs: how a graph of ONNX is made, and what is done to it then. Presets of ONNX decide which."""

from __future__ import annotations

from collections.abc import Iterator

from kanna.components.base import Component, Kind, of_module, of_object, options
from kanna.formats.onnx import _int8_child, _mend, build, halves, int8, quantize, smooth

_KIND = "graphs"
_FILES = {
    "build": (build, "build"),
    "mend": (_mend, "mend"),
    "nbits": (quantize, "prepare"),
    "halve": (halves, "halve"),
    "smooth": (smooth, "best"),
    "int8": (int8, "quantize"),
}
_STEPS = (_int8_child.share_embedding, _int8_child.quantize_embedding)


def _find() -> Iterator[Component]:
    for name, (module, function) in _FILES.items():
        named = options(getattr(module, function), only=("calibrator", "include", "exclude", "smoothing", "encoding"))
        yield of_module(_KIND, name, module, function, extra=build.EXTRA, options=named)
    for step in _STEPS:
        yield of_object(_KIND, step.__name__.replace("_", "-"), step, extra=build.EXTRA)


KIND = Kind(find=_find)
