"""What the decoders of OpenVINO share: the package, options of a graph, and graphs that fail."""

from __future__ import annotations

import importlib
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kanna._util import extras
from kanna.errors import FormatError, MissingError


def load_module(name: str = "openvino") -> Any:
    """A module of OpenVINO.

    Raises:
        MissingError: It is not here.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingError(
            f"OpenVINO does not load: {error}", todo=extras.command("openvino")
        ) from error


def cpu_options(threads: int | None) -> dict[str, Any]:
    """Options of a graph on the CPU, with sums in float32; None: as many threads as it likes."""
    options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
    return options | ({"INFERENCE_NUM_THREADS": threads} if threads else {})


@contextmanager
def refusals(folder: Path) -> Generator[None]:
    """Turn a failure to load a graph into a FormatError.

    Args:
        folder: Of the graph.
    """
    try:
        yield
    except (RuntimeError, StopIteration) as error:
        reason = " ".join(str(error).split())[:400] or "it keeps no keys and values"
        raise FormatError(
            f"OpenVINO cannot serve {folder}: {reason}", todo="convert again"
        ) from error
