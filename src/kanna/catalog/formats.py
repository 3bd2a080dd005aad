"""Formats: containers that can be written.

Named by `--format`, and before the colon of a preset, as in `mlx:q4`.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator

from kanna.catalog.base import Component, Kind, of_module, options
from kanna.conversion import convert, formats


def _find() -> Iterator[Component]:
    for name in formats():
        module = importlib.import_module(f"kanna.conversion.{name}")
        work = module.WORK
        yield of_module(
            "formats",
            name,
            module,
            "WORK",
            extra=work.extra,
            options=options(convert, only=work.takes),
        )


KIND = Kind(find=_find)
