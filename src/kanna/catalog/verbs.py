"""Components of the kind `verbs`."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator

import kanna
from kanna import runtimes
from kanna._util import plugins
from kanna.catalog.base import Component, Kind, command_options, of_object
from kanna.recipes import verbs as steps

COMMANDS = "kanna.cli.commands"
_NO_STEP = {"bug_report"}
"""Functions of `kanna` that a workflow has no use for."""


def _find() -> Iterator[Component]:
    commands = plugins.names(COMMANDS, "COMMAND")
    for name in kanna.__all__:
        verb = getattr(kanna, name)
        if name not in commands or name in _NO_STEP or not inspect.isfunction(verb):
            continue
        module = importlib.import_module(verb.__module__)
        extra = getattr(module, "EXTRA", "")
        runs = hasattr(module, "runtimes") and not extra
        facts: dict[str, object] = (
            {"needs the runtime of the file, an extra each": list(runtimes.names())} if runs else {}
        )
        if name in steps.names():
            facts["as a step of a recipe makes"] = list(steps.get(name).outputs) or "figures"
        yield of_object(
            "verbs",
            name,
            verb,
            summary=plugins.load(COMMANDS, name, "COMMAND").get_short_help_str(250).rstrip("."),
            extra=extra,
            options=command_options(name, verb),
            facts=facts,
        )


KIND = Kind(
    summary="Verbs: the steps of a workflow",
    about="Each is a command, a function of `kanna`, and takes the same options.",
    find=_find,
)
