"""Components of the kind `targets`."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

from kanna.catalog.base import Component, Kind, of_module
from kanna.packaging import targets
from kanna.packaging.assembly import EXTRA


def _find() -> Iterator[Component]:
    for name in targets.names():
        target = targets.get(name)
        yield of_module(
            "targets",
            name,
            importlib.import_module(f"{targets.__name__}.{name}"),
            "TARGET",
            summary=target.summary,
            extra=EXTRA,
            facts={"runs": list(target.kinds), "uses the files of": list(target.needs)},
        )


KIND = Kind(
    summary="Targets: where a packaged model runs",
    about="Named by `kanna package --to`.",
    find=_find,
)
