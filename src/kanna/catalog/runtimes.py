"""Runtimes: what runs an artefact, unmodified, for the gate, evaluation, benches and generation."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

from kanna import runtimes
from kanna.catalog.base import Component, Kind, of_module, options


def _find() -> Iterator[Component]:
    for name in runtimes.names():
        runtime = runtimes.get(name)
        module = importlib.import_module(type(runtime).__module__)
        opened = options(runtime.open, without=("path",))
        yield of_module("runtimes", name, module, "RUNTIME", extra=runtime.extra, options=opened)


KIND = Kind(find=_find)
