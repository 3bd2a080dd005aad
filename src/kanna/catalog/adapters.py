"""Components of the kind `adapters`."""

from __future__ import annotations

from collections.abc import Iterator

from kanna import adapters
from kanna._util import plugins
from kanna.catalog.base import Component, Kind, of_module


def _find() -> Iterator[Component]:
    for name in plugins.names(adapters.__name__, "LAYOUT"):
        yield of_module(
            "adapters",
            name,
            plugins.module(adapters.__name__, name),
            "LAYOUT",
            summary=plugins.load(adapters.__name__, name, "LAYOUT").summary,
        )


KIND = Kind(
    summary="Adapters: the layouts in which fine-tuning tools save LoRA",
    about="Merged by `kanna merge`, written alone by `kanna convert --adapter`.",
    find=_find,
)
