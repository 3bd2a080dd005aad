"""Idefics 3 and SmolVLM 1 and 2: SigLIP, patches gathered in squares, one matrix."""

from __future__ import annotations

from kanna._util.typed import whole
from kanna.families.base import Problem
from kanna.families.towers import _siglip
from kanna.families.towers.base import Metadata, Sizes, Tower, TowerConfig
from kanna.model import u32

_PROJECTION = "mm.model.fc.weight"
_LARGEST_SCALE = 16
_LARGEST_EDGE = 1 << 14


def _scale(c: TowerConfig) -> int:
    """Patches of a side of the square that becomes one token."""
    return c.whole.get("scale_factor", whole(1, _LARGEST_SCALE), 2)


def _sizes(c: TowerConfig) -> Sizes:
    gathered = c.vision.need("hidden_size", whole(1, 1 << 16)) * _scale(c) ** 2
    return {"positions": _siglip.side(c) ** 2, "gathered": gathered}


def _metadata(c: TowerConfig) -> Metadata:
    side = c.vision.need("image_size", whole(1, 1 << 16))
    edge = c.pictures.part("size").get("longest_edge", whole(1, _LARGEST_EDGE), side)
    return _siglip.metadata(c) | {
        "clip.vision.projector.scale_factor": u32(_scale(c)),
        "clip.vision.preproc_image_size": u32(edge),
    }


def _checks(c: TowerConfig) -> list[Problem]:
    side, scale = _siglip.side(c), _scale(c)
    if side >= scale and side % scale == 0:
        return []
    return [
        Problem(
            f"config.json has scale_factor = {scale}, of {side} × {side} patches",
            "a number that divides the patches of a side",
        )
    ]


TOWER = Tower(
    projector="idefics3",
    summary="Idefics 3, SmolVLM and SmolVLM2: SigLIP, its patches gathered in squares",
    architectures=("Idefics3ForConditionalGeneration", "SmolVLMForConditionalGeneration"),
    owns=(
        r"(?:model\.)?vision_model\.",
        r"(?:model\.)?(?=connector\.)",
    ),
    names=_siglip.NAMES | {"connector.modality_projection.proj.weight": _PROJECTION},
    shapes=_siglip.SHAPES | {_PROJECTION: ("text", "gathered")},
    sizes=_sizes,
    whole=_siglip.WHOLE,
    metadata=_metadata,
    defaults={
        "hidden_size": 1152,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 16,
        "image_size": 224,
        "patch_size": 32,
        "hidden_act": "gelu_pytorch_tanh",
    },
    fixed=_siglip.FIXED,
    checks=_checks,
)
