"""Graphs with their weights in a file beside them, as onnx's own writer makes them."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kanna._util.processes import stand_in, working_folder

EXTERNAL_BYTES = 1024
"""Bytes of an initializer that lies beside the graph; smaller ones lie in it."""


@contextmanager
def standing_in(folder: Path) -> Generator[None]:
    """Work in a folder, for a process of its own.

    onnx 1.23 refuses to write weights whose file's name is one of the working directory, which may
    be that of a model, though it writes them elsewhere.
    """
    before = working_folder()
    os.chdir(folder)
    try:
        yield
    finally:
        stand_in(before)


def save(model: Any, path: Path) -> None:
    """Write a graph, and its weights in `path`.data.

    Args:
        model: An onnx ModelProto, whose initializers are moved out of it.
        path: Of the graph.
    """
    import onnx

    path = path.absolute()
    with standing_in(path.parent):
        onnx.save(
            model,
            str(path),
            save_as_external_data=True,
            location=f"{path.name}.data",
            size_threshold=EXTERNAL_BYTES,
        )
