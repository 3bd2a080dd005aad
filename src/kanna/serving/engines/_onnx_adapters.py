"""LoRA adapters of an ONNX graph: read once, and given to its inputs as a request wants them.

A graph has two inputs for each module that adapters change (see `formats.onnx.lora_inputs`).
Several adapters at once are one of their ranks together: their first matrices stand side by side,
their second ones, by which the strength goes, below each other. That is exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kanna.errors import FormatError
from kanna.model import F32
from kanna.serving.engines._jobs import AdapterScales

_CACHED = 16
"""Combinations whose matrices are kept."""


class OnnxAdapters:
    """The adapters that a process was given, by their place in its configuration.

    Args:
        library: onnxruntime.
        session: Of the graph.
        paths: `.onnx_adapter` files.

    Raises:
        FormatError: A file is no adapter, or the graph has no input for it.
    """

    def __init__(self, library: Any, session: Any, paths: Sequence[Path]) -> None:
        inputs = {i.name: i for i in session.get_overridable_initializers()}
        self._adapters = [_read(library, path, inputs) for path in paths]
        self._values: dict[AdapterScales, Mapping[str, F32]] = {(): {}}

    def values(self, scales: AdapterScales) -> Mapping[str, F32]:
        """Of every input that adapters change, by its name.

        Args:
            scales: Each adapter that is switched on, once.
        """
        if scales not in self._values:
            if len(self._values) > _CACHED:
                self._values = {(): {}}
            self._values[scales] = self._combined(scales)
        return self._values[scales]

    def _combined(self, scales: AdapterScales) -> Mapping[str, F32]:
        parts: dict[str, list[F32]] = {}
        for index, scale in scales:
            for name, value in self._adapters[index].items():
                strong = value if _is_first(name) else value * np.float32(scale)
                parts.setdefault(name, []).append(strong)
        return {
            name: np.ascontiguousarray(np.concatenate(values, axis=1 if _is_first(name) else 0))
            for name, values in parts.items()
        }


def _is_first(name: str) -> bool:
    """Whether an input is multiplied by first: [columns, rank], the other [rank, rows]."""
    return ".lora_A." in name


def _read(library: Any, path: Path, inputs: Mapping[str, Any]) -> dict[str, F32]:
    """The matrices of a file, held to the inputs of a graph."""
    try:
        stored = library.AdapterFormat.read_adapter(str(path)).get_parameters()
        values = {name: np.array(value.numpy(), np.float32) for name, value in stored.items()}
    except Exception as error:  # onnxruntime's exceptions share no base
        raise FormatError(
            f"onnxruntime cannot read the adapter {path}: {' '.join(str(error).split())[:300]}",
            expected="an .onnx_adapter file",
            todo="write it: kanna convert SRC --adapter ADAPTER -o NAME.onnx_adapter",
        ) from error
    for name, value in values.items():
        given = inputs.get(name)
        if given is None or not _fits(value, given.shape):
            raise FormatError(
                f"the graph has no input for {name} of {path}",
                expected="a folder whose graph takes this adapter",
                todo="write both: kanna convert SRC --adapter ADAPTER -o FOLDER --format onnx",
            )
    return values


def _fits(value: F32, shape: Sequence[int | str]) -> bool:
    """Whether a matrix has the sizes of an input, of which the rank alone has none."""
    return value.ndim == len(shape) and all(
        isinstance(wanted, str) or size == wanted
        for size, wanted in zip(value.shape, shape, strict=True)
    )
