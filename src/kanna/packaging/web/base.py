"""The record of what runs one kind of model in a browser."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kanna.packaging.artefact import Artefact
from kanna.packaging.libraries import NpmLibrary


def _nothing(_: Artefact) -> tuple[dict[str, Any], dict[str, str]]:
    return {}, {}


@dataclass(frozen=True, slots=True, kw_only=True)
class BrowserEngine:
    """What runs one kind of model in a browser.

    Attributes:
        summary: The library, in a few words.
        script: Our module in front of the library, beside this file.
        libraries: What goes into the package; versions are pinned, files are held to hashes.
        described: Returns what the script must know of the model, and files to add beside it.
            UnsupportedError where the library does not run it.
    """

    summary: str
    script: str
    libraries: tuple[NpmLibrary, ...]
    described: Callable[[Artefact], tuple[dict[str, Any], dict[str, str]]] = _nothing
