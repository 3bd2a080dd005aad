"""Components of the kind `methods`."""

from __future__ import annotations

from collections.abc import Iterator

from kanna import methods
from kanna._util import plugins
from kanna.catalog.base import Component, Kind, of_module, options


def _find() -> Iterator[Component]:
    for name in methods.names():
        method = methods.get(name)
        yield of_module(
            "methods",
            name,
            plugins.module(methods.__name__, name),
            "METHOD",
            summary=method.summary[0].upper() + method.summary[1:],
            options=options(methods.Inputs),
            facts={"needs statistics": method.needs_second_moment},
        )


KIND = Kind(
    summary="Methods: how the values of a tensor are chosen for its encoding",
    about="Named by `--method`, and in rules of a plan file.",
    find=_find,
)
