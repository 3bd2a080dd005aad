"""The weights of a model under the names of transformers' modules."""

from __future__ import annotations

from typing import Any

import numpy as np

from kanna import families
from kanna.calibration.devices import torch_modules
from kanna.calibration.experts import EXPERT, ROUTER
from kanna.families.stacked import one_of
from kanna.model import F32, Model, Tensor, num_rows

_BLOCK = 1 << 22
"""Weights read at a time."""
_HEADS = ("lm_head.weight", "model.embed_tokens.weight", "model.embeddings.weight")


def values(tensor: Tensor) -> F32:
    """All values of a tensor, float32 in its shape, read in row blocks."""
    out = np.empty(tensor.shape, np.float32)
    rows = out.reshape(num_rows(tensor), -1)
    step = max(1, _BLOCK // rows.shape[1])
    for start in range(0, len(rows), step):
        rows[start : start + step] = tensor.rows(start, min(start + step, len(rows)))
    return out


class NetworkWeights:
    """Where each weight of a network comes from.

    Attributes:
        model: The model.
        config: config.json of the same model.
        tensors: Its tensors by Hugging Face name.
        parts: What of the GGUF each of them is made of.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.config, self.tensors, _ = families.to_hf(model)
        self.parts = families.hf_parts(model)

    def place(self, path: str) -> tuple[str, int | None]:
        """GGUF name of the weight of a module, and which matrix it is where that is a stack.

        Of a module that holds several matrices of a GGUF, the first of them.
        """
        if (match := EXPERT.fullmatch(path)) is not None:
            return f"blk.{match['layer']}.ffn_{match['kind']}_exps.weight", int(match["expert"])
        return self.parts[f"{path}.weight"][0][0], None

    @property
    def head(self) -> Tensor:
        """The matrix of the head, which may be the embedding."""
        return next(self.tensors[name] for name in _HEADS if name in self.tensors)

    def copy(self, module: Any, prefix: str = "") -> None:
        """Fill parameters, and the buffers that checkpoints have.

        Args:
            module: A module whose parameters are in memory.
            prefix: What its names begin with in the network.
        """
        torch, _ = torch_modules()
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                parameter.copy_(torch.from_numpy(values(self._stored(prefix + name))))
            for name, buffer in module.named_buffers():
                if prefix + name in self.tensors:
                    buffer.copy_(torch.from_numpy(values(self.tensors[prefix + name])))

    def _stored(self, name: str) -> Tensor:
        """The values of a parameter or a buffer, by its name in the network."""
        path, _, kind = name.rpartition(".")
        if EXPERT.fullmatch(path) is None:
            if name not in self.tensors and (match := ROUTER.fullmatch(name)) is not None:
                return self.model.tensors[f"blk.{match['layer']}.ffn_gate_inp.weight"]
            return self.tensors[name]
        stack, expert = self.place(path)
        assert expert is not None
        return one_of(name, self.model.tensors[stack.removesuffix("weight") + kind], expert)
