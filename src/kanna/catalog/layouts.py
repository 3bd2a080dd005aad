"""Components of the kind `layouts`."""

from __future__ import annotations

from collections.abc import Iterator

from kanna._util import plugins
from kanna.catalog.base import Component, Kind, of_module
from kanna.registry import layouts


def _find() -> Iterator[Component]:
    for name in layouts.names():
        layout = layouts.get(name)
        yield of_module(
            "layouts",
            name,
            plugins.module(layouts.__name__, name),
            "LAYOUT",
            summary=layout.summary,
            facts={
                "read by": ", ".join(layout.readers),
                "configuration": layout.config_type,
                "formats": ", ".join(sorted(layout.formats)) or "all",
                "pulled": layout.files is not None,
                "several variants in a tag": layout.variants,
            },
        )


KIND = Kind(
    summary="Layouts: by which media types a model lies in an OCI registry",
    about="Named by `kanna push --layout`; `kanna pull` knows them by the manifest.",
    find=_find,
)
