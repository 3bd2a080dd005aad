"""Qwen3-VL's tower: patches of two frames, 2D rotary positions, states of several layers merged."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from math import isqrt
from typing import Any

import numpy as np

from kanna._util.typed import TypedObject, listed, number, whole
from kanna.families.base import Problem
from kanna.families.towers.base import Metadata, Shape, Sizes, Tower, TowerConfig
from kanna.formats.views import Refolded
from kanna.model import F32, Tensor, ValueType, array, boolean, f32, u32

_MERGE = 2
"""Patches of a side of the square that becomes one token; llama.cpp computes no other."""
_FRAMES = 2
_THETA = 10_000.0
_SIZE = whole(1, 1 << 16)
_PATCH, _SECOND = "v.patch_embd.weight", "v.patch_embd.weight.1"
_LAYER = "blocks.{}."
_MODULES: dict[str, tuple[str, Shape]] = {
    "attn.qkv": ("attn_qkv", ("3hidden", "hidden")),
    "attn.proj": ("attn_out", ("hidden", "hidden")),
    "mlp.linear_fc1": ("ffn_up", ("ff", "hidden")),
    "mlp.linear_fc2": ("ffn_down", ("hidden", "ff")),
    "norm1": ("ln1", ("hidden",)),
    "norm2": ("ln2", ("hidden",)),
}
_MERGER: dict[str, tuple[str, Shape]] = {
    "linear_fc1": ("fc1", ("merged", "merged")),
    "linear_fc2": ("fc2", ("text", "merged")),
    "norm": ("norm", ("merged",)),
}
_KINDS = ("weight", "bias")


def _stacked(c: TowerConfig) -> list[int]:
    """Layers whose states go to the first layers of text, in the order of their mergers."""
    return c.vision.get("deepstack_visual_indexes", listed(whole(), 64), [])


def _names_of(c: TowerConfig) -> dict[str, str]:
    """Mergers of single layers; llama.cpp counts them by the layer."""
    return {
        f"deepstack_merger_list.{i}.{module}.{kind}": f"v.deepstack.{layer}.{part}.{kind}"
        for i, layer in enumerate(_stacked(c))
        for module, (part, _) in _MERGER.items()
        for kind in _KINDS
    }


def _given(vision: Mapping[str, Any]) -> dict[str, Any]:
    """Its sizes under the names of other towers; the picture is that of the learned positions."""
    given = TypedObject(vision, "config.json", inside="vision_config.")
    patch = given.need("patch_size", _SIZE)
    side = isqrt(given.need("num_position_embeddings", _SIZE))
    return {
        "num_hidden_layers": vision.get("depth"),
        "num_attention_heads": vision.get("num_heads"),
        "num_channels": vision.get("in_channels"),
        "image_size": side * patch,
    }


def _sizes(c: TowerConfig) -> Sizes:
    hidden = c.vision.need("hidden_size", _SIZE)
    return {
        "positions": c.vision.need("num_position_embeddings", _SIZE),
        "3hidden": 3 * hidden,
        "merged": hidden * _MERGE**2,
        "frames": _FRAMES,
    }


def _metadata(c: TowerConfig) -> Metadata:
    stacked = set(_stacked(c))
    layers = c.vision.need("num_hidden_layers", _SIZE)
    return {
        "clip.use_gelu": boolean(True),
        "clip.vision.attention.layer_norm_epsilon": f32(1e-6),
        "clip.vision.spatial_merge_size": u32(_MERGE),
        "clip.vision.is_deepstack_layers": array(
            [layer in stacked for layer in range(layers)], ValueType.BOOL
        ),
    }


def _checks(c: TowerConfig) -> list[Problem]:
    problems: list[Problem] = []
    positions = c.vision.need("num_position_embeddings", _SIZE)
    if isqrt(positions) ** 2 != positions:
        problems.append(
            Problem(f"config.json has num_position_embeddings = {positions}", "a square")
        )
    stacked, layers = _stacked(c), c.vision.need("num_hidden_layers", _SIZE)
    if stacked != sorted(set(stacked)) or any(layer >= layers for layer in stacked):
        problems.append(
            Problem(
                f"config.json has deepstack_visual_indexes = {stacked} of {layers} layers",
                "layers that exist, in their order",
            )
        )
    size = c.vision.need("hidden_size", _SIZE) // c.vision.need("num_attention_heads", _SIZE)
    if size % 4:
        problems.append(Problem(f"heads of {size} values in the tower", "a multiple of four"))
    theta = c.vision.part("rope_parameters").get("rope_theta", number(), _THETA)
    if theta != _THETA:
        problems.append(
            Problem(
                f"config.json has vision_config.rope_parameters.rope_theta = {theta}", str(_THETA)
            )
        )
    return problems


def _frame(number: int, name: str, tensor: Tensor) -> Tensor:
    """The weights of one of the frames that a patch has; a picture is the same in both."""
    hidden, channels, _, *patch = tensor.shape

    def pick(values: F32) -> F32:
        return np.ascontiguousarray(values.reshape(tensor.shape)[:, :, number])

    return Refolded(name, tensor, (hidden, channels, *patch), pick)


TOWER = Tower(
    projector="qwen3vl_merger",
    summary="Qwen3-VL: patches of two frames, states of several layers merged in squares",
    architectures=("Qwen3VLForConditionalGeneration", "Qwen3VLMoeForConditionalGeneration"),
    owns=(r"(?:model\.)?visual\.",),
    names={
        "patch_embed.proj.weight": _PATCH,
        "patch_embed.proj.bias": "v.patch_embd.bias",
        "pos_embed.weight": "v.position_embd.weight",
        **{
            f"{_LAYER}{module}.{kind}": f"v.blk.{{}}.{part}.{kind}"
            for module, (part, _) in _MODULES.items()
            for kind in _KINDS
        },
        "merger.norm.weight": "v.post_ln.weight",
        "merger.norm.bias": "v.post_ln.bias",
        "merger.linear_fc1.weight": "mm.0.weight",
        "merger.linear_fc1.bias": "mm.0.bias",
        "merger.linear_fc2.weight": "mm.2.weight",
        "merger.linear_fc2.bias": "mm.2.bias",
    },
    names_of=_names_of,
    also={_SECOND: _PATCH},
    shapes={
        _PATCH: ("hidden", "channels", "frames", "patch", "patch"),
        "v.patch_embd.bias": ("hidden",),
        "v.position_embd.weight": ("positions", "hidden"),
        **{f"v.blk.{{}}.{part}.weight": shape for part, shape in _MODULES.values()},
        **{f"v.blk.{{}}.{part}.bias": shape[:1] for part, shape in _MODULES.values()},
        **{f"v.deepstack.{{}}.{part}.weight": shape for part, shape in _MERGER.values()},
        **{f"v.deepstack.{{}}.{part}.bias": shape[:1] for part, shape in _MERGER.values()},
        "v.post_ln.weight": ("hidden",),
        "v.post_ln.bias": ("hidden",),
        "mm.0.weight": ("merged", "merged"),
        "mm.0.bias": ("merged",),
        "mm.2.weight": ("text", "merged"),
        "mm.2.bias": ("text",),
    },
    given=_given,
    sizes=_sizes,
    forms={_PATCH: partial(_frame, 0), _SECOND: partial(_frame, 1)},
    whole={_PATCH: "f32", _SECOND: "f32", "v.position_embd.weight": "f32"},
    metadata=_metadata,
    defaults={
        "depth": 27,
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_heads": 16,
        "in_channels": 3,
        "patch_size": 16,
        "num_position_embeddings": 2304,
        "deepstack_visual_indexes": [8, 16, 24],
        "hidden_act": "gelu_pytorch_tanh",
    },
    fixed={
        "hidden_act": ("gelu_pytorch_tanh", "gelu_new"),
        "num_channels": (3,),
        "spatial_merge_size": (_MERGE,),
        "temporal_patch_size": (_FRAMES,),
    },
    checks=_checks,
)
