"""Sources: what a model is read from.

Given as SRC: a folder, a file, a hub id, or `builtin:` and a name.

Packed checkpoints are recognised by their config.json, and decoded exactly.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
from collections.abc import Iterator

from kanna import formats, sources
from kanna._util import plugins
from kanna.catalog.base import Component, Kind, of_module, of_object, options
from kanna.sources import hub

_KIND = "sources"
_PACKED = "kanna.formats.prequantized"


def _find() -> Iterator[Component]:
    for found in pkgutil.iter_modules(formats.__path__):
        place = f"{formats.__name__}.{found.name}"
        if found.ispkg and importlib.util.find_spec(f"{place}.read"):
            yield of_module(_KIND, found.name, importlib.import_module(place))
    for name in plugins.names(_PACKED, "unpacked"):
        module = importlib.import_module(f"{_PACKED}.{name}")
        yield of_module(_KIND, name, module, "unpacked", facts={"quant_method": name})
    opened = options(sources.open_source, only=("revision", "offline", "weights"))
    yield of_module(_KIND, "hub", hub, "look_up", options=opened)
    for name, fetch in sources.BUILTIN.items():
        assert inspect.isfunction(fetch)
        yield of_object(_KIND, f"builtin:{name}", fetch)


KIND = Kind(find=_find)
