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
    """Return the entry over the same tensor in the row order of Hugging Face.

    Args:
        model: The model of the entry.
        entry: What a plan decides for a tensor in the row order of GGUF.
        tensor: That tensor in the row order of Hugging Face.

    Returns:
        The entry over `tensor`; scales and offsets that a tuning gave its rows follow their order.
    """
    if isinstance(entry.tensor, Vector):
        tensor = families.hf_view(model, entry.name, entry.tensor)

    def ordered(values: Any) -> Any:
        if values is None:
            return None
        view = families.hf_view(model, entry.name, Computed(entry.name, values))
        return view.rows(0, len(values))

    return replace(entry, tensor=tensor, scale=ordered(entry.scale), offset=ordered(entry.offset))
