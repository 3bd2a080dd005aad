"""Verbs: the steps of a workflow.

Each is a command, a function of `kanna`, and takes the same options.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator

import kanna
from kanna import runtimes
from kanna._util import plugins
from kanna.catalog.base import Component, Kind, of_object, options
from kanna.generation import generate
from kanna.sources import open_source


def _find() -> Iterator[Component]:
    commands = plugins.names("kanna.cli.commands", "COMMAND")
    for name in kanna.__all__:
        verb = getattr(kanna, name)
        if name not in commands or not inspect.isfunction(verb):
            continue
        module = importlib.import_module(verb.__module__)
        extra = getattr(module, "EXTRA", "")
        runs = hasattr(module, "runtimes") and not extra
        facts = (
            {"needs the runtime of an artefact, an extra each": list(runtimes.names())}
            if runs
            else {}
        )
        # Whose words hold where a verb passes an option on.
        passed = (
            (open_source, generate) if verb.__module__ == generate.__module__ else (open_source,)
        )
        yield of_object(
            "verbs", name, verb, extra=extra, options=options(verb, as_for=passed), facts=facts
        )


KIND = Kind(find=_find)
