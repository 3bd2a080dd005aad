"""What of an artefact can learn: a factor on every block of a matrix, a shift of it, and norms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from kanna import encodings, families
from kanna.calibration.devices import torch_modules
from kanna.calibration.network import Network
from kanna.calibration.network_weights import values
from kanna.calibration.sites import is_stack
from kanna.families import hf_view
from kanna.families.views import Computed
from kanna.model import F32, Model, Tensor, columns, num_rows
from kanna.plan import roles
from kanna.plan.tuning import factors, shifts, steps

PER_LAYER_TABLE = "per_layer_token_embd.weight"
"""It takes more memory than all else, and a window reads little of it."""
_SAME = 1e-5
"""How far a gain may be from that of the network, beyond an offset."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Learnable:
    """A tensor of an artefact that can learn.

    Attributes:
        name: Its name in GGUF.
        path: Of its module in the network.
        shape: Of its factors [rows, blocks], or of a norm's offsets [values].
        shifts: Whether its blocks can be moved by parts of a step, too.
    """

    name: str
    path: str
    shape: tuple[int, ...]
    shifts: bool = False

    @property
    def norm(self) -> bool:
        """Whether it is a norm."""
        return len(self.shape) == 1


def matrices(artefact: Model) -> dict[str, int]:
    """Factors of a row, one for each block, of the matrices whose scales can be moved."""
    return {
        name: columns(t) // encodings.get(t.dtype).block
        for name, t in artefact.tensors.items()
        if len(t.shape) == 2
        and factors(encodings.get(t.dtype))
        and not roles.drafts(artefact, name)
        and name != PER_LAYER_TABLE
    }


def learnables(network: Network, *, norms: bool) -> list[Learnable]:
    """Everything that can learn, in the order of the network.

    The head of a model that ties it to the embedding is the embedding.

    Args:
        network: That of the artefact.
        norms: Whether its norms can, too.
    """
    torch, _ = torch_modules()
    blocks = matrices(network.model)
    every: list[Learnable] = []
    for path, module in network.skeleton.named_modules():
        name = _name(network, path)
        if name is None or name not in network.model.tensors:
            continue
        if isinstance(module, torch.nn.Embedding) or multiplies(module):
            if name in blocks:
                shape = (module.weight.shape[0], blocks[name])
                moves = shifts(encodings.get(network.model.tensors[name].dtype))
                every.append(Learnable(name=name, path=path, shape=shape, shifts=moves))
        elif norms and _is_gain(network, path, name, module):
            every.append(Learnable(name=name, path=path, shape=tuple(module.weight.shape)))
    return every


def multiplies(module: Any) -> bool:
    """Whether a module gives a product with its weight and no more: routers may choose, too."""
    torch, _ = torch_modules()
    return isinstance(module, torch.nn.Linear) and type(module).forward is torch.nn.Linear.forward


def _name(network: Network, path: str) -> str | None:
    """GGUF name of a module's weight; None where it is not its own, one of many, or not reached."""
    reached = (network.table_path, network.norm_path, "lm_head")
    if path not in reached and not path.startswith("model.layers."):
        return None  # what embeddings of each layer are projected by
    parts = network.weights.parts.get(f"{path}.weight", [])
    if path == "lm_head" and "output.weight" not in network.model.tensors:
        return None
    if len(parts) != 1 or is_stack(parts[0][0]):
        return None
    moved = families.column_order(network.model, parts[0][0]) is not None  # so are its blocks
    return None if moved else parts[0][0]


def _is_gain(network: Network, path: str, name: str, module: Any) -> bool:
    """Whether a module is a norm whose gains are those of the artefact but for an offset."""
    if not type(module).__name__.endswith("Norm") or getattr(module, "weight", None) is None:
        return False
    stored = values(network.model.tensors[name])
    gains = values(network.weights.tensors[f"{path}.weight"])
    return stored.shape == gains.shape and bool(np.ptp(stored - gains) <= _SAME)


def step_sizes(model: Model, name: str) -> F32:
    """Size of a step of every block of a matrix that shifts, f32 [rows, blocks] as transformers."""
    tensor: Tensor = model.tensors[name]
    data = tensor.raw(0, num_rows(tensor))
    assert data is not None, "the rows of a quantized matrix are encoded"
    sizes = steps(encodings.get(tensor.dtype), data, columns(tensor))
    return np.array(hf_view(model, name, Computed(name, sizes)).rows(0, len(sizes)))


def unit_of(model: Model, name: str) -> float:
    """The usual size of a norm's gains: what its offsets are multiplied by."""
    return float(np.abs(values(model.tensors[name])).mean()) or 1.0


def below(every: Mapping[str, Learnable], prefix: str) -> Iterator[tuple[str, Learnable]]:
    """Those of a module and of its parts, with the path from it.

    Args:
        every: Learnables by path.
        prefix: Path of the module.
    """
    for path, one in every.items():
        if path == prefix or path.startswith(f"{prefix}."):
            yield path[len(prefix) + 1 :], one
