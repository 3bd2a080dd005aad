"""Components of the kind `executors`."""

from __future__ import annotations

from collections.abc import Iterator

from kanna import executors
from kanna._util import plugins
from kanna.catalog.base import Component, Kind, of_module, options


def _find() -> Iterator[Component]:
    for name in executors.names():
        executor = executors.get(name)
        yield of_module(
            "executors",
            name,
            plugins.module(executors.__name__, name),
            "EXECUTOR",
            summary=executor.summary,
            extra=executor.extra,
            options=options(executor.options),
            facts={"writes files that others run it by": executor.files is not None},
        )


KIND = Kind(
    summary="Executors: where the steps of a recipe run",
    about="Named by `kanna run --on`, their options by `--on-set` and `--on-config`.",
    find=_find,
)
