"""kanna: plane language models down until they fit the device.

Every verb of the command line is a function here, imported when first used:
`kanna.convert("model-folder", "model.gguf", preset="Q4_K_M")`.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from kanna._util import former_names, outgoing, telemetry

__version__ = "0.1.0"

if TYPE_CHECKING:
    from kanna import fleet as fleet
    from kanna import runtime as runtime
    from kanna.auditing import audit as audit
    from kanna.benchmark import bench as bench
    from kanna.calibration import calibrate as calibrate
    from kanna.calibration.shards import statistics as statistics
    from kanna.catalog import components as components
    from kanna.comparison import compare as compare
    from kanna.comparison.demonstration import demo as demo
    from kanna.compilation import compile as compile
    from kanna.devices import targets as targets
    from kanna.diagnosis import doctor as doctor
    from kanna.embedding import embed as embed
    from kanna.errors import KannaError as KannaError
    from kanna.evaluation import evaluate as evaluate
    from kanna.families import load_model as load_model
    from kanna.fault_report import bug_report as bug_report
    from kanna.fleet.device.polling import agent as agent
    from kanna.generation import chat as chat
    from kanna.generation import generate as generate
    from kanna.inspection import inspect as inspect
    from kanna.merging import merge as merge
    from kanna.optimization import optimize as optimize
    from kanna.packaging.assembly import package as package
    from kanna.packaging.push import push as push
    from kanna.promotion import promote as promote
    from kanna.recipes import recipe as recipe
    from kanna.recipes import run as run
    from kanna.self_testing import selftest as selftest
    from kanna.serving import serve as serve
    from kanna.serving.administration import ps as ps
    from kanna.serving.administration import swap as swap
    from kanna.serving.key_management import keys as keys
    from kanna.serving.studio import studio as studio
    from kanna.sizing import fit as fit
    from kanna.sources import open_source as open_source
    from kanna.storage.download import pull as pull
    from kanna.storage.inventory import list as list
    from kanna.storage.places import cache as cache
    from kanna.storage.removal import rm as rm
    from kanna.training import adapt as adapt
    from kanna.verification import verify as verify
    from kanna.verified_conversion import convert as convert

# Public name → module that holds it. The light ones and the heavy ones alike come on first use.
_WHERE = {
    "KannaError": "kanna.errors",
    "adapt": "kanna.training",
    "agent": "kanna.fleet.device.polling",
    "audit": "kanna.auditing",
    "bench": "kanna.benchmark",
    "bug_report": "kanna.fault_report",
    "cache": "kanna.storage.places",
    "calibrate": "kanna.calibration",
    "chat": "kanna.generation",
    "compare": "kanna.comparison",
    "compile": "kanna.compilation",
    "components": "kanna.catalog",
    "convert": "kanna.verified_conversion",
    "demo": "kanna.comparison.demonstration",
    "doctor": "kanna.diagnosis",
    "embed": "kanna.embedding",
    "evaluate": "kanna.evaluation",
    "fit": "kanna.sizing",
    "generate": "kanna.generation",
    "inspect": "kanna.inspection",
    "keys": "kanna.serving.key_management",
    "list": "kanna.storage.inventory",
    "load_model": "kanna.families",
    "merge": "kanna.merging",
    "optimize": "kanna.optimization",
    "package": "kanna.packaging.assembly",
    "open_source": "kanna.sources",
    "promote": "kanna.promotion",
    "ps": "kanna.serving.administration",
    "pull": "kanna.storage.download",
    "push": "kanna.packaging.push",
    "recipe": "kanna.recipes",
    "rm": "kanna.storage.removal",
    "run": "kanna.recipes",
    "selftest": "kanna.self_testing",
    "serve": "kanna.serving",
    "statistics": "kanna.calibration.shards",
    "studio": "kanna.serving.studio",
    "swap": "kanna.serving.administration",
    "targets": "kanna.devices",
    "verify": "kanna.verification",
}

# Packages whose functions are the commands of a group, `kanna fleet status`.
_GROUPS = {"fleet", "runtime"}

# Before any library is loaded: they read it when they are.
telemetry.switch_off()
outgoing.forbid()
former_names.keep()

# What happens is logged, and whoever wants to see it sets up `logging`.
logging.getLogger("kanna").addHandler(logging.NullHandler())

__all__ = ["__version__", *_WHERE]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _GROUPS:
        return importlib.import_module(f"kanna.{name}")
    where = _WHERE.get(name)
    if where is None:
        raise AttributeError(f"module 'kanna' has no attribute {name!r}")
    value = getattr(importlib.import_module(where), name)
    globals()[name] = value
    return value


def __dir__() -> Iterable[str]:
    return sorted({*globals(), *_WHERE, *_GROUPS})
