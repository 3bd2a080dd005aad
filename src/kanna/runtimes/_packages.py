"""Whether the packages of a runtime are installed, and their import when it is needed."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from kanna.errors import MissingError
from kanna.runtimes.base import Availability


def available(packages: Sequence[str], how_to_install: str) -> Availability:
    """Whether `packages`, named as on the package index, are installed.

    None is imported, which takes seconds; so the CPU is the only device that can be named.
    """
    if absent := [n for n in packages if importlib.util.find_spec(n.replace("-", "_")) is None]:
        return Availability(
            ok=False,
            how_to_install=how_to_install,
            remark=f"{' and '.join(absent)} not installed here",
        )
    return Availability(
        ok=True, version=", ".join(f"{n} {version(n)}" for n in packages), backends=["CPU"]
    )


def check(here: Availability, extra: str, how_to_install: str) -> None:
    """Raise MissingError unless the packages are here."""
    if not here.ok:
        raise MissingError(here.remark, expected=f"the extra {extra}", todo=how_to_install)


def load(here: Availability, modules: Sequence[str], extra: str, how_to_install: str) -> list[Any]:
    """Import `modules`. Raises MissingError when they are not here, or do not load."""
    check(here, extra, how_to_install)
    try:
        return [importlib.import_module(name) for name in modules]
    # A wheel for another CPU or a missing shared library may raise anything.
    except Exception as error:
        raise MissingError(
            f"{extra} is installed but does not load: {error}", todo=how_to_install
        ) from error
