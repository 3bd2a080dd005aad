"""Gemma 3's tower: SigLIP, its patches averaged in squares, a norm and one matrix."""

from __future__ import annotations

from math import isqrt

from kanna._util.typed import whole
from kanna.families.base import Problem
from kanna.families.towers import _siglip
from kanna.families.towers.base import Metadata, Sizes, Tower, TowerConfig
from kanna.formats.views import Shifted
from kanna.model import Tensor, u32

_PROJECTION = "mm.input_projection.weight"
_NORM = "mm.soft_emb_norm.weight"
_LARGEST_SIDE = 4096


def _tokens(c: TowerConfig) -> int:
    return c.whole.get("mm_tokens_per_image", whole(1, _LARGEST_SIDE**2), 256)


def _sizes(c: TowerConfig) -> Sizes:
    return {"positions": _siglip.side(c) ** 2}


def _metadata(c: TowerConfig) -> Metadata:
    return _siglip.metadata(c) | {
        "clip.vision.projector.scale_factor": u32(_siglip.side(c) // isqrt(_tokens(c))),
    }


def _checks(c: TowerConfig) -> list[Problem]:
    side, tokens = _siglip.side(c), _tokens(c)
    row = isqrt(tokens)
    if row * row == tokens and side >= row and side % row == 0:
        return []
    return [
        Problem(
            f"config.json has mm_tokens_per_image = {tokens}, of {side} × {side} patches",
            "the square of a number that divides the patches of a side",
        )
    ]


def _shifted(name: str, tensor: Tensor) -> Tensor:
    return Shifted(name, tensor, 1.0)


TOWER = Tower(
    projector="gemma3",
    summary="Gemma 3: SigLIP, its patches averaged in squares",
    architectures=("Gemma3ForConditionalGeneration",),
    owns=(
        r"(?:model\.)?vision_tower\.(?:vision_model\.)?",
        r"(?:model\.)?(?=multi_modal_projector\.)",
    ),
    unused=(r"head\..*",),
    names=_siglip.NAMES
    | {
        "multi_modal_projector.mm_input_projection_weight": _PROJECTION,
        "multi_modal_projector.mm_soft_emb_norm.weight": _NORM,
    },
    shapes=_siglip.SHAPES | {_PROJECTION: ("hidden", "text"), _NORM: ("hidden",)},
    sizes=_sizes,
    forms={_NORM: _shifted},
    whole=_siglip.WHOLE | {_PROJECTION: "f16"},
    metadata=_metadata,
    defaults={
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "image_size": 224,
        "patch_size": 16,
        "hidden_act": "gelu_pytorch_tanh",
    },
    fixed=_siglip.FIXED,
    checks=_checks,
)
