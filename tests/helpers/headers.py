"""Headers of tensors without their weights."""

from __future__ import annotations

import numpy as np

from kanna import families
from kanna.families._config import Config
from kanna.families._places import expected_shape, layer_of, part_of, places
from kanna.formats.stored import HeaderTensor
from kanna.model import Tensor


def tensors_of(family: families.base.Family, config: Config) -> dict[str, Tensor]:
    """Headers of every tensor a family needs, as checkpoints name them."""
    where = places(family, config)
    wanted = {f"{theirs}.weight": f"{ours}.weight" for theirs, ours in where.modules.items()}
    wanted |= {
        f"{theirs}.bias": f"{ours}.bias"
        for theirs, ours in where.modules.items()
        if part_of(ours) in family.biases
    }
    tensors: dict[str, Tensor] = {}
    for theirs, ours in (wanted | dict(where.tensors)).items():
        shape = expected_shape(family, family.all_sizes(config, layer_of(ours)), ours)
        if (form := family.forms.get(part_of(ours))) is not None:
            shape = form.hf_shape(shape)
        if 0 in shape:  # of a part that this model does not have
            continue
        tensors[theirs] = HeaderTensor(theirs, shape, "bf16", 2 * int(np.prod(shape)))
    for block in family.blocks:
        if block.regrouping is not None:
            tensors = block.regrouping.spread(tensors, config)
    return tensors
