"""Transforms: what happens to weights and plans between a source and an artefact, and keeps what the model computes.

Families name the changes of rows and values, `--imatrix` and `--statistics` take the place of guessed importance, and
`--effort max` tunes.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

from kanna.catalog.base import Component, Kind, of_module, of_object, options
from kanna.encodings import grid_detection
from kanna.families import views
from kanna.formats.mlx.read import Packed
from kanna.formats.prequantized.groups import Grouped
from kanna.plan import fallback, prior, tuning

_KIND = "transforms"
_PLACE = ("name", "inner", "shape", "dtype")
"""Fields of a lazy tensor that say where it stands, and are no options."""


def _find() -> Iterator[Component]:
    for name, view in inspect.getmembers(views, inspect.isclass):
        if view.__module__ == views.__name__:
            kebab = re.sub(r"(?<!^)(?=[A-Z])", "-", name).lower()
            yield of_object(_KIND, kebab, view, options=options(view, without=_PLACE))
    yield of_object(_KIND, "unpack", Grouped)
    yield of_object(_KIND, "unpack-mlx", Packed)
    for module, function in (
        (grid_detection, "detect"),
        (prior, "prior_of"),
        (fallback, "feasible"),
        (tuning, "scaled"),
    ):
        yield of_module(_KIND, module.__name__.rpartition(".")[2], module, function)


KIND = Kind(find=_find)
