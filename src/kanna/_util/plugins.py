"""Find components by file name: a module put in a folder exists under its own name."""

from __future__ import annotations

import importlib
import re
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from kanna._util.nearest import nearest
from kanna.errors import UnsupportedError, UsageError


@cache
def _installed() -> Any:
    """Every entry point there is, looked up once: it reads the metadata of all packages."""
    return entry_points()


@cache
def _foreign(package: str) -> dict[str, EntryPoint]:
    """Components of third parties: entry points of the group that is named like `package`."""
    return {e.name: e for e in _installed().select(group=package)}


@cache
def names(package: str, export: str) -> tuple[str, ...]:
    """Names of the components of `package`, sorted; third parties add theirs by entry point.

    A module or a folder is a component when it has `export` at its top level; the text is searched,
    nothing is imported.
    """
    spec = find_spec(package)
    assigns = re.compile(rf"^(?:def )?{export}\b", re.MULTILINE)
    own: set[str] = set()
    for place in spec.submodule_search_locations or () if spec else ():
        for path in (*Path(place).glob("*.py"), *Path(place).glob("*/__init__.py")):
            name = (
                path.parent.name
                if path.name == "__init__.py" and path.parent != Path(place)
                else path.stem
            )
            if not name.startswith("_") and assigns.search(path.read_text(encoding="utf-8")):
                own.add(name)
    return tuple(sorted(own | set(_foreign(package))))


@cache
def load(package: str, name: str, export: str) -> Any:
    """Return `export` of the component `name`; raises UnsupportedError naming the known ones."""
    if name not in names(package, export):
        raise UnsupportedError(
            f"no {export.lower()} named {name!r}", expected=", ".join(names(package, export))
        )
    if entry := _foreign(package).get(name):
        return entry.load()
    return getattr(importlib.import_module(f"{package}.{name}"), export)


def choose(package: str, name: str, export: str) -> Any:
    """As `load`, of a name that a user typed: UsageError, with the one that was meant."""
    known = names(package, export)
    if name not in known:
        raise UsageError(
            f"there is no {export.lower()} {name!r}{nearest(name, known)}",
            expected=", ".join(known),
        )
    return load(package, name, export)


def module(package: str, name: str) -> ModuleType:
    """The module that holds the component `name`, of ours or of a third party."""
    entry = _foreign(package).get(name)
    return importlib.import_module(entry.module if entry else f"{package}.{name}")
