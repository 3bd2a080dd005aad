"""Components of the kind `engines`."""

from __future__ import annotations

from collections.abc import Iterator

from kanna._util import plugins
from kanna.catalog.base import Component, Kind, of_module, options
from kanna.serving import EXTRA, engines


def _find() -> Iterator[Component]:
    for name in engines.names():
        engine = engines.get(name)
        yield of_module(
            "engines",
            name,
            plugins.module(engines.__name__, name),
            "ENGINE",
            summary=engine.summary,
            extra=",".join(dict.fromkeys((EXTRA, engine.extra))),
            options=options(engines.EngineConfig, without=("engine", "path", "name", "key")),
            facts={
                "roles": list(engine.roles),
                "roles of a process of their own": list(engine.separate_roles),
            },
        )


KIND = Kind(
    summary="Engines: what `kanna serve` runs a model with, each in a child process",
    about="Chosen by the format of the model.",
    find=_find,
)
