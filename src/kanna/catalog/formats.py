"""Components of the kind `formats`."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

from kanna.catalog.base import Component, Kind, command_options, of_module
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
            summary=work.summary,
            extra=work.extra,
            options=command_options("convert", convert, only=work.takes),
        )


KIND = Kind(
    summary="Formats: containers that can be written",
    about="Named by `--format`, and before the colon of a preset, as in `mlx:q4`.",
    find=_find,
)
