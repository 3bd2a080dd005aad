"""Components of the kind `orchestrators`."""

from __future__ import annotations

from collections.abc import Iterator

from kanna._util import plugins
from kanna.catalog.base import Component, Kind, of_module
from kanna.fleet import orchestrators


def _find() -> Iterator[Component]:
    for name in orchestrators.names():
        orchestrator = orchestrators.get(name)
        yield of_module(
            "orchestrators",
            name,
            plugins.module(orchestrators.__name__, name.replace("-", "_")),
            "ORCHESTRATOR",
            summary=f"{orchestrator.title}: the files of a rollout",
            facts={"needs": ", ".join(orchestrator.needs) or "nothing"},
        )


KIND = Kind(
    summary="Orchestrators: what else brings a model to many devices",
    about="Named by `kanna fleet manifests --for`.",
    find=_find,
)
