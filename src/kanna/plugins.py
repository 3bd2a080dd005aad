"""Find components by file name: a module put in a folder exists under its own name."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from kanna.errors import UnsupportedError


@cache
def names(package: str) -> tuple[str, ...]:
    """Names of the components in `package`, sorted; third parties add theirs by entry point."""
    folder = importlib.import_module(package)
    own = {m.name for m in pkgutil.iter_modules(folder.__path__) if not m.name.startswith("_") and m.name != "base"}
    return tuple(sorted(own | {e.name for e in entry_points(group=package)}))


@cache
def load(package: str, name: str, export: str) -> Any:
    """Return `export` of the component `name`; raises UnsupportedError naming the known ones."""
    if name not in names(package):
        raise UnsupportedError(f"no {export.lower()} named {name!r}", expected=", ".join(names(package)))
    for entry in entry_points(group=package):
        if entry.name == name:
            return entry.load()
    return getattr(importlib.import_module(f"{package}.{name}"), export)
