"""Components of the kind `transforms`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

from kanna.catalog.base import Component, Kind, of_module, of_object, options
from kanna.encodings import grid_detection
from kanna.families import views
from kanna.formats import views as shared_views
from kanna.formats.mlx.read import Packed
from kanna.formats.prequantized.groups import Grouped
from kanna.plan import fallback, prior, tuning

_KIND = "transforms"
_PLACE = ("name", "inner", "shape", "dtype")
"""Fields of a lazy tensor that say where it stands, and are no options."""


_VIEWS = {
    "computed": "Values made from the config, kept in memory (a few hundred numbers)",
    "head-rows": "Rows of a q or k projection in the other rotary order, head by head",
    "mapped": "Every value through a function, in float32",
    "picked-columns": "Columns in another order",
    "refolded": "The values of a vector, or of a matrix back as one, in rows of another length",
    "renamed": "The same rows under another name, and under another shape where one is given",
    "scaled-rows": "Every row times a number of its own, in float32",
    "shifted": "Every value plus a constant, in float32",
}


def _find() -> Iterator[Component]:
    every = [*inspect.getmembers(views, inspect.isclass)]
    every += inspect.getmembers(shared_views, inspect.isclass)
    for name, view in sorted(every, key=lambda pair: pair[0]):
        if view.__module__ in (views.__name__, shared_views.__name__):
            kebab = re.sub(r"(?<!^)(?=[A-Z])", "-", name).lower()
            yield of_object(
                _KIND, kebab, view, summary=_VIEWS[kebab], options=options(view, without=_PLACE)
            )
    yield of_object(_KIND, "unpack", Grouped, summary="A packed matrix, decoded row by row")
    yield of_object(
        _KIND, "unpack-mlx", Packed, summary="A matrix of MLX codes and scales, decoded row by row"
    )
    for module, function, summary in (
        (
            grid_detection,
            "detect",
            "Detects weights that lie on the grid of an encoding already",
        ),
        (
            prior,
            "prior_of",
            (
                "Importance of columns guessed from the weights alone, for when no text "
                "was run through the model"
            ),
        ),
        (
            fallback,
            "feasible",
            "The encoding that a tensor gets when its rows are not a whole number of blocks",
        ),
        (tuning, "scaled", "Scales and norms tuned after the quantized values are fixed"),
    ):
        yield of_module(
            _KIND, module.__name__.rpartition(".")[2], module, function, summary=summary
        )


KIND = Kind(
    summary=(
        "Transforms: what happens to weights and plans between a source and a file, and "
        "keeps what the model computes"
    ),
    about=(
        "Families name the changes of rows and values, `--imatrix` and `--statistics` take the "
        "place of guessed importance, and `--effort max` tunes."
    ),
    find=_find,
)
