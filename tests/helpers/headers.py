"""Headers of tensors without their weights."""

from __future__ import annotations

import numpy as np

from kanna import families
from kanna.families.base import SHAPES, Config
from kanna.formats.stored import HeaderTensor


def tensors_of(family: families.base.Family, config: Config) -> dict[str, HeaderTensor]:
    """Headers of every tensor a family needs."""
    tensors: dict[str, HeaderTensor] = {}
    for theirs, ours in family.names.items():
        part = ours.split(".")[-1]
        shape = tuple(config.sizes[s] for s in (family.shapes.get(part) or SHAPES[part]))
        for layer in range(config.layers) if "{}" in theirs else (0,):
            base = theirs.replace("{}", str(layer))
            tensors[f"{base}.weight"] = HeaderTensor(
                f"{base}.weight", shape, "bf16", 2 * int(np.prod(shape))
            )
            if part in family.biases:
                tensors[f"{base}.bias"] = HeaderTensor(
                    f"{base}.bias", shape[:1], "bf16", 2 * shape[0]
                )
    return tensors
