"""Weights that were packed before they were published, as matrices of values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kanna._util.typed import TypedObject
from kanna.formats import mlx, prequantized
from kanna.formats.text_files import read_json
from kanna.model import Tensor

_OF_MODELOPT = "hf_quant_config.json"


def with_settings(config: dict[str, Any], files: Mapping[str, Path]) -> dict[str, Any]:
    """The config with the settings that older releases of Model-Optimizer keep in another file."""
    if config.get(prequantized.SETTINGS) is not None or _OF_MODELOPT not in files:
        return config
    other = TypedObject.of(read_json(files[_OF_MODELOPT]), _OF_MODELOPT)
    settings = {"quant_method": "modelopt", **other.part("quantization").values}
    return config | {prequantized.SETTINGS: settings}


def unpacked(
    tensors: dict[str, Tensor], config: dict[str, Any], *, of_mlx: bool = False
) -> tuple[dict[str, Tensor], dict[str, Any], list[str]]:
    """Tensors with packed ones as matrices of values, and what their user must know.

    The config is without its words on packing.

    Args:
        tensors: By their names in the files.
        config: config.json.
        of_mlx: They were written for mlx-lm, packed or not.
    """
    notes: list[str] = []
    if mlx.is_mlx(config):
        tensors, config = mlx.as_published(mlx.unpacked(tensors, config), config)
    elif of_mlx:
        tensors, config = mlx.as_published(tensors, config)
    elif method := prequantized.method_of(config):
        tensors = prequantized.unpacked(tensors, config, method)
        notes = prequantized.notes(config, method)
    else:
        if config.get(prequantized.SETTINGS) is None:
            prequantized.refuse_unnamed(tensors)
        return tensors, config, notes
    return tensors, prequantized.without_settings(config), notes
