"""Modules under the names they once had: `kanna.serve.guard` is `kanna.serving.guard` now.

`kanna.serve` itself is a function and stays it: as a package it is only what comes before the dot.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_FORMER, _NOW = "kanna.serve", "kanna.serving"
_CLASSES = {
    "Bucket": "TokenBucket",
    "Limiter": "RateLimiter",
    "Key": "ApiKey",
    "Store": "KeyStore",
    "Use": "KeyUsage",
}


class _FormerModule(ModuleType):
    """A module whose contents are those of another."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        now = importlib.import_module(_NOW + self.__name__.removeprefix(_FORMER))
        return getattr(now, _CLASSES.get(name, name))


class _FormerNames:
    """Finds a module under its former name, after everything else was asked."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != _FORMER and not name.startswith(f"{_FORMER}."):
            return None
        return ModuleSpec(name, self, is_package=True)  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        now = _NOW + spec.name.removeprefix(_FORMER)
        importlib.import_module(now)
        warnings.warn(f"{spec.name} is {now} now", DeprecationWarning, stacklevel=2)
        return _FormerModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Leave the function that has the name of the package in its place."""
        if module.__name__ == _FORMER:
            function: Any = importlib.import_module(_NOW).serve
            function.__path__, function.__spec__ = [], module.__spec__
            sys.modules[_FORMER] = function


def keep() -> None:
    """Let modules be imported by their former names."""
    if not any(isinstance(finder, _FormerNames) for finder in sys.meta_path):
        sys.meta_path.append(_FormerNames())  # type: ignore[arg-type]
