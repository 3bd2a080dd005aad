"""Runtimes that load artefacts. Each file exports RUNTIME, and is found by its name."""

from __future__ import annotations

from pathlib import Path

from kanna._util import hidden_packages, plugins
from kanna.errors import FormatError
from kanna.runtimes.base import Availability, Engine, Runtime, Sampling
from kanna.sources import adapter

__all__ = ["Availability", "Engine", "Runtime", "Sampling", "get", "hide_unneeded", "names", "of"]


def names() -> tuple[str, ...]:
    """Names of all runtimes, installed here or not; third parties add theirs by entry point."""
    return plugins.names(__name__, "RUNTIME")


def get(name: str) -> Runtime:
    """The runtime of that name; raises UnsupportedError with the names there are."""
    return plugins.load(__name__, name, "RUNTIME")


def of(path: str | Path) -> Runtime:
    """The runtime that loads the artefact at `path`; raises FormatError if there is none.

    An adapter in the place of a model raises UnsupportedError.

    llama.cpp is asked last: any file may be a GGUF, and its header decides.
    """
    path = Path(path)
    for name in sorted(names(), key=lambda name: name == "llamacpp"):
        runtime = get(name)
        if runtime.opens(path):
            return runtime
    adapter.refuse_folder(path)
    raise FormatError(
        f"{path} is no model that a runtime loads",
        expected="a .gguf file or a folder that kanna wrote",
    )


def hide_unneeded(runtime: Runtime) -> None:
    """Let this process find nothing that its one runtime would load without a use for it."""
    hidden_packages.hide(*getattr(runtime, "unneeded", ()))
