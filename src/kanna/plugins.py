"""Find components by file name: a module put in a folder exists under its own name."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from typing import Any

from kanna.errors import UnsupportedError


@cache
def _installed() -> Any:
    """Every entry point there is; looked up once, since it reads the metadata of everything installed."""
    return entry_points()


@cache
def _foreign(package: str) -> dict[str, EntryPoint]:
    """Components of third parties."""
    return {e.name: e for e in _installed().select(group=package)}


@cache
def names(package: str) -> tuple[str, ...]:
    """Names of the components in `package`, sorted; third parties add theirs by entry point. Imports none of them."""
    spec = find_spec(package)
    found = pkgutil.iter_modules(spec.submodule_search_locations if spec else [])
    own = {m.name for m in found if not m.name.startswith("_") and m.name != "base" and not m.ispkg}
    return tuple(sorted(own | set(_foreign(package))))


@cache
def load(package: str, name: str, export: str) -> Any:
    """Return `export` of the component `name`; raises UnsupportedError naming the known ones."""
    if name not in names(package):
        raise UnsupportedError(f"no {export.lower()} named {name!r}", expected=", ".join(names(package)))
    if entry := _foreign(package).get(name):
        return entry.load()
    return getattr(importlib.import_module(f"{package}.{name}"), export)
