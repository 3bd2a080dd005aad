"""Components of the kind `searches`."""

from __future__ import annotations

from collections.abc import Iterator

from kanna.catalog.base import Component, Kind, command_options
from kanna.optimization import EFFORTS, EXTRA, STAGES, optimize

_KIND = "searches"


def _find() -> Iterator[Component]:
    budgets = command_options(
        "optimize",
        optimize,
        only=("size", "bpw", "like", "memory", "context", "keep", "exclude", "rules"),
    )
    for name, effort in EFFORTS.items():
        yield Component(
            kind=_KIND,
            name=name,
            summary=effort.summary,
            where="kanna.optimization:EFFORTS",
            extra=EXTRA,
            options=budgets,
            facts={"swaps tried at most": effort.swaps},
        )
    for stage in STAGES.values():
        yield Component(
            kind=_KIND,
            name=stage.name,
            summary=stage.summary,
            about=stage.function.__doc__ or "",
            where=f"{stage.function.__module__}:{stage.function.__name__}",
            extra=EXTRA,
            facts={"kind": "step"},
        )


KIND = Kind(
    summary="Searches: how far `kanna optimize` goes, named by `--effort`, and its stages",
    find=_find,
)
