"""Engines in the process of the tests, where their parts can be looked at."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kanna import runtimes
from kanna._util import processes


@contextmanager
def opened(artefact: Path, *, context: int, threads: int = 1) -> Generator[Any]:
    """The engine of an artefact, not in a process of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "_disposable", True)
        engine = runtimes.of(artefact).open(artefact, context=context, threads=threads)
    with engine:
        yield engine
