"""Checkpoints of GPTQ, AWQ and compressed-tensors as lazy matrices.

Packed whole numbers, scales and zeros, decoded exactly.

Each file is a layout, under the `quant_method` of config.json, and exports `unpacked(tensors,
settings)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kanna._util import plugins
from kanna._util.typed import TypedObject
from kanna.errors import FormatError
from kanna.model import Tensor


def method_of(config: Mapping[str, Any]) -> str | None:
    """The layout that config.json names, where it is one of these."""
    settings = config.get("quantization_config")
    name = settings.get("quant_method") if isinstance(settings, dict) else None
    name = name.replace("-", "_") if isinstance(name, str) else ""
    return name if name in plugins.names(__name__, "unpacked") else None


def unpacked(
    tensors: Mapping[str, Tensor], config: Mapping[str, Any], method: str
) -> dict[str, Tensor]:
    """The tensors with each packed matrix as one of values.

    Raises UnsupportedError, FormatError.
    """
    decoded: dict[str, Tensor] = plugins.load(__name__, method, "unpacked")(
        tensors, TypedObject.of(config, "config.json").part("quantization_config")
    )
    if len(decoded) == len(tensors):
        raise FormatError(
            f"config.json says the weights are packed by {method}, and no tensor is",
            todo="fetch the files again",
        )
    return decoded
