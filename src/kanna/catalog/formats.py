"""Components of the kind `formats`."""

from __future__ import annotations

from collections.abc import Iterator

from kanna._util import plugins
from kanna.catalog.base import Component, Kind, command_options, of_module
from kanna.conversion import get, names
from kanna.verified_conversion import convert


def _find() -> Iterator[Component]:
    for name in names():
        module = plugins.module("kanna.conversion", name)
        converter = get(name)
        yield of_module(
            "formats",
            name,
            module,
            "CONVERSION",
            summary=converter.summary,
            extra=converter.extra,
            options=command_options("convert", convert, only=converter.takes),
        )


KIND = Kind(
    summary="Formats: containers that can be written",
    about="Named by `--format`, and before the colon of a preset, as in `mlx:q4`.",
    find=_find,
)
