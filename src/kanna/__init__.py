"""kanna: plane language models down until they fit the device.

Every verb of the command line is a function here, imported when first used:
`kanna.convert("model-folder", "model.gguf", preset="Q4_K_M")`.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from kanna.bench import bench as bench
    from kanna.calibrate import calibrate as calibrate
    from kanna.compare import compare as compare
    from kanna.components import components as components
    from kanna.convert import convert as convert
    from kanna.doctor import doctor as doctor
    from kanna.errors import KannaError as KannaError
    from kanna.evaluate import evaluate as evaluate
    from kanna.families import load_model as load_model
    from kanna.fit import fit as fit
    from kanna.generate import chat as chat
    from kanna.generate import generate as generate
    from kanna.inspect import inspect as inspect
    from kanna.optimize import optimize as optimize
    from kanna.package import package as package
    from kanna.serve import serve as serve
    from kanna.sources import open_source as open_source
    from kanna.verify import verify as verify

# Public name → module that holds it. The light ones and the heavy ones alike come on first use.
_WHERE = {
    "KannaError": "kanna.errors",
    "bench": "kanna.bench",
    "calibrate": "kanna.calibrate",
    "chat": "kanna.generate",
    "compare": "kanna.compare",
    "components": "kanna.components",
    "convert": "kanna.convert",
    "doctor": "kanna.doctor",
    "evaluate": "kanna.evaluate",
    "fit": "kanna.fit",
    "generate": "kanna.generate",
    "inspect": "kanna.inspect",
    "load_model": "kanna.families",
    "optimize": "kanna.optimize",
    "package": "kanna.package",
    "open_source": "kanna.sources",
    "serve": "kanna.serve",
    "verify": "kanna.verify",
}

__all__ = ["__version__", *_WHERE]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    where = _WHERE.get(name)
    if where is None:
        raise AttributeError(f"module 'kanna' has no attribute {name!r}")
    value = getattr(importlib.import_module(where), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})


class _Package(ModuleType):
    """Keeps `kanna.convert` the function: importing the module of that name would put itself there."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _WHERE and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
