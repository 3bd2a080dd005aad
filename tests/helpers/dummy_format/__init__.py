"""A format of another distribution, the least that is real: one .npy file of blocks per tensor.

A folder holds dummy.json (name → encoding and shape), `weights/`, and what a Hugging Face folder
has beside its weights. Its runtime decodes it and runs it in transformers.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from helpers.plugging import forget, plugged_modules
from kanna.formats.base import Format

COMPONENTS = {
    "kanna.formats": "helpers.dummy_format.container:FORMAT",
    "kanna.conversion": "helpers.dummy_format.conversion:CONVERSION",
    "kanna.runtimes": "helpers.dummy_format.runtime:RUNTIME",
    "kanna.optimization.adapters": "helpers.dummy_format.adapter:ADAPTER",
    "kanna.serving.engines": "helpers.dummy_format.engine:ENGINE",
}
TESTS = Path(__file__).parents[2]


@contextmanager
def installed(folder: Path) -> Iterator[None]:
    """Have the format `dummy` installed while the context is open, for child processes too."""
    path = os.pathsep.join([str(folder), str(TESTS)])
    with plugged_modules(folder, "dummy", COMPONENTS, path):
        yield


@contextmanager
def removed() -> Iterator[None]:
    """Have it not installed for a while, inside of `installed`."""
    kept = list(sys.path)
    sys.path[:] = [p for p in kept if not list(Path(p or ".").glob("kanna_dummy-*.dist-info"))]
    forget()
    try:
        yield
    finally:
        sys.path[:] = kept
        forget()


def without_reader() -> Format:
    """Its record, as if nothing were read back from its folders."""
    from helpers.dummy_format.container import FORMAT

    return replace(FORMAT, contents=None)
