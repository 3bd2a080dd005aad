"""Artefacts for where they go: packages that deploy them, registries, the hub and object stores.

`package` and `check` load on first use, with all that packages are made of: a push needs little of
it, and begins before that would be here.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kanna.packaging.assembly import CheckResult, PackageResult, check, package

__all__ = ["CheckResult", "PackageResult", "check", "package"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.assembly"), name)
