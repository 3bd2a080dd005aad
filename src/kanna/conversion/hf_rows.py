"""A plan's decisions over tensors as Hugging Face stores them.

MLX folders and ONNX graphs have its rows.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from kanna import families
from kanna.families.views import Computed
from kanna.model import Model, Tensor
from kanna.plan import TensorPlan
from kanna.plan.tuning import Vector


def over(model: Model, entry: TensorPlan, tensor: Tensor) -> TensorPlan:
    """The entry over `tensor`, which is its own in the order of Hugging Face, with what a tuning says of it."""
    if isinstance(entry.tensor, Vector):
        tensor = families.hf_view(model, entry.name, entry.tensor)

    def ordered(found: Any) -> Any:
        if found is None:
            return None
        return families.hf_view(model, entry.name, Computed(entry.name, found)).rows(0, len(found))

    return replace(entry, tensor=tensor, scale=ordered(entry.scale), offset=ordered(entry.offset))
