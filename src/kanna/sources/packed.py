"""Weights that were packed before they were published, as matrices of values."""

from __future__ import annotations

from typing import Any

from kanna.formats import mlx, prequantized
from kanna.model import Tensor


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
