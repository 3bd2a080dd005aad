"""Alternating updates (Gemma 3n): four streams, of which each layer computes one.

A layer predicts all streams from themselves, computes the active one and corrects the others.
AltUp, Baykal et al. 2023, https://arxiv.org/abs/2301.13310.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from kanna.families._config import Config
from kanna.families.base import Block, Metadata
from kanna.families.stacked import Stacked, one_of
from kanna.model import Model, Tensor, u32

STREAMS, ACTIVE = "altup_num_inputs", "altup_active_idx"
STACKS = ("model.altup_projections", "model.altup_unembed_projections")
"""Modules with a matrix for every stream beside the first; one stack each in GGUF."""
_NUMBERED = re.compile(r"(model\.altup_(?:unembed_)?projections)\.(\d+)\.weight")
_LAYER = "model.layers.{}.altup."


class Streams:
    """Stacks [streams - 1, rows, columns] from a matrix per stream."""

    def gather(self, tensors: Mapping[str, Tensor], c: Config) -> dict[str, Tensor]:
        """A stack in place of its matrices; one that is not whole is left out."""
        out: dict[str, Tensor] = {}
        single: dict[str, dict[int, Tensor]] = {}
        for name, tensor in tensors.items():
            if match := _NUMBERED.fullmatch(name):
                single.setdefault(match[1], {})[int(match[2])] = tensor
            else:
                out[name] = tensor
        count = c.count(STREAMS) - 1
        for module, parts in single.items():
            shapes = {tuple(part.shape) for part in parts.values()}
            if sorted(parts) == list(range(count)) and len(shapes) == 1:
                stack = f"{module}.weight"
                out[stack] = Stacked(stack, [parts[i] for i in range(count)])
            else:
                out |= {f"{module}.{i}.weight": part for i, part in parts.items() if i >= count}
        return out

    def spread(self, tensors: Mapping[str, Tensor], c: Config) -> dict[str, Tensor]:
        """A matrix per stream."""
        out: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            pieces = self.pieces(name, c)
            if pieces == [name]:
                out[name] = tensor
                continue
            out |= {piece: one_of(piece, tensor, i) for i, piece in enumerate(pieces)}
        return out

    def pieces(self, name: str, c: Config) -> list[str]:
        """Names of one stack's matrices."""
        module = name.removesuffix(".weight")
        if module not in STACKS:
            return [name]
        return [f"{module}.{i}.weight" for i in range(c.count(STREAMS) - 1)]


def _metadata(arch: str, c: Config) -> Metadata:
    return {
        f"{arch}.altup.active_idx": u32(int(c.number(ACTIVE))),
        f"{arch}.altup.num_inputs": u32(c.count(STREAMS)),
    }


def _to_config(model: Model) -> dict[str, Any]:
    return {
        STREAMS: model.whole("{arch}.altup.num_inputs", 4, least=2),
        ACTIVE: model.whole("{arch}.altup.active_idx", 0),
        "altup_correct_scale": True,
    }


ALTUP = Block(
    names={
        STACKS[0]: "altup_proj",
        STACKS[1]: "altup_unembd_proj",
        _LAYER + "correction_coefs": "blk.{}.altup_correct_coef",
        _LAYER + "prediction_coefs": "blk.{}.altup_predict_coef",
        _LAYER + "modality_router": "blk.{}.altup_router",
        _LAYER + "router_norm": "blk.{}.altup_router_norm",
    },
    tensors={_LAYER + "correct_output_scale": "blk.{}.altup_correct_scale.weight"},
    shapes={
        "altup_proj": ("other_streams", "hidden", "hidden"),
        "altup_unembd_proj": ("other_streams", "hidden", "hidden"),
        "altup_correct_coef": ("streams", "streams"),
        "altup_predict_coef": ("streams_squared", "streams"),
        "altup_router": ("streams", "hidden"),
        "altup_router_norm": ("hidden",),
        "altup_correct_scale": ("hidden",),
    },
    sizes=lambda c: {
        "streams": c.count(STREAMS),
        "other_streams": c.count(STREAMS) - 1,
        "streams_squared": c.count(STREAMS) ** 2,
    },
    metadata=_metadata,
    to_config=_to_config,
    regrouping=Streams(),
    defaults={STREAMS: 4, ACTIVE: 0, "altup_correct_scale": True},
    # llama.cpp has these in its code, not in the file.
    fixed={STREAMS: (4,), ACTIVE: (0,), "altup_correct_scale": (True,)},
)
