"""Gemma 4's tower: positions of two axes, four norms a layer, patches averaged in squares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from kanna._util.typed import LAYERS, number, whole
from kanna.families.base import Problem
from kanna.families.towers.base import Metadata, Shape, Sizes, Tower, TowerConfig
from kanna.formats.views import Refolded
from kanna.model import F32, Tensor, ValueType, array, boolean, f32, u32

_SIZE = whole(1, 1 << 16)
_LARGEST_KERNEL = 16
_TOKENS_OF_A_SIDE = 16
"""Of the square of most tokens that transformers makes of a picture unasked, 280."""
_THETA = 100.0
_CAUSAL_WIDTHS = (1536, 2560)
"""Widths of E2B and E4B, whose text llama.cpp lets see a picture from its start alone."""
_PATCH, _POSITIONS = "v.patch_embd.weight", "v.position_embd.weight"
_PROJECTION = "mm.input_projection.weight"
_LAYER = "encoder.layers.{}."
_MATRICES: dict[str, tuple[str, Shape]] = {
    "self_attn.q_proj": ("attn_q", ("hidden", "hidden")),
    "self_attn.k_proj": ("attn_k", ("hidden", "hidden")),
    "self_attn.v_proj": ("attn_v", ("hidden", "hidden")),
    "self_attn.o_proj": ("attn_out", ("hidden", "hidden")),
    "mlp.gate_proj": ("ffn_gate", ("ff", "hidden")),
    "mlp.up_proj": ("ffn_up", ("ff", "hidden")),
    "mlp.down_proj": ("ffn_down", ("hidden", "ff")),
}
_NORMS: dict[str, tuple[str, Shape]] = {
    "self_attn.q_norm": ("attn_q_norm", ("head",)),
    "self_attn.k_norm": ("attn_k_norm", ("head",)),
    "input_layernorm": ("ln1", ("hidden",)),
    "post_attention_layernorm": ("attn_post_norm", ("hidden",)),
    "pre_feedforward_layernorm": ("ln2", ("hidden",)),
    "post_feedforward_layernorm": ("ffn_post_norm", ("hidden",)),
}
_LIMITS = ("input_min", "input_max", "output_min", "output_max")
"""Numbers that what goes into and comes out of a matrix is clipped to."""
_STANDARD = {"std_bias": "v.std_bias", "std_scale": "v.std_scale"}


def _kernel(c: TowerConfig) -> int:
    """Patches of a side of the square that becomes one token."""
    return c.vision.get("pooling_kernel_size", whole(1, _LARGEST_KERNEL), 3)


def _names_of(c: TowerConfig) -> dict[str, str]:
    """What only some sizes of the model have: limits of matrices, a scale of what is pooled."""
    names = dict(_STANDARD) if c.vision.values.get("standardize") is True else {}
    if c.vision.values.get("use_clipped_linears") is True:
        names |= {
            f"encoder.layers.{layer}.{module}.{limit}": f"v.blk.{layer}.{part}.{limit}"
            for layer in range(c.vision.need("num_hidden_layers", LAYERS))
            for module, (part, _) in _MATRICES.items()
            for limit in _LIMITS
        }
    return names


def _given(vision: Mapping[str, Any]) -> dict[str, Any]:
    """The side of the largest square picture of as many tokens as transformers makes unasked."""
    kernel, patch = vision.get("pooling_kernel_size"), vision.get("patch_size")
    if not isinstance(kernel, int) or not isinstance(patch, int):
        return {}
    return {"image_size": _TOKENS_OF_A_SIDE * kernel * patch}


def _sizes(c: TowerConfig) -> Sizes:
    patch = c.vision.need("patch_size", _SIZE)
    return {
        "positions": c.vision.need("position_embedding_size", _SIZE),
        "head": c.vision.need("head_dim", _SIZE),
        "axes": 2,
        "pixels": 3 * patch**2,
    }


def _metadata(c: TowerConfig) -> Metadata:
    keys: Metadata = {
        "clip.use_gelu": boolean(True),
        "clip.vision.attention.layer_norm_epsilon": f32(
            c.vision.get("rms_norm_eps", number(0, 0.9), 1e-6)
        ),
        "clip.vision.projector.scale_factor": u32(_kernel(c)),
    }
    if c.pictures.values.get("do_normalize") is not True:
        # llama.cpp normalises always: by these a picture stays as it is.
        keys["clip.vision.image_mean"] = array([0.0] * 3, ValueType.F32)
        keys["clip.vision.image_std"] = array([1.0] * 3, ValueType.F32)
    return keys


def _checks(c: TowerConfig) -> list[Problem]:
    return [*_head_checks(c), *_text_checks(c)]


def _head_checks(c: TowerConfig) -> list[Problem]:
    hidden, heads = (c.vision.need(k, _SIZE) for k in ("hidden_size", "num_attention_heads"))
    problems: list[Problem] = []
    size = c.vision.need("head_dim", _SIZE)
    if size * heads != hidden or size % 4:
        problems.append(
            Problem(
                f"config.json has {heads} heads of {size} values in a tower of {hidden}",
                "heads that make up its width, in multiples of four",
            )
        )
    shared = c.vision.get("num_key_value_heads", _SIZE, heads)
    if shared != heads:
        problems.append(
            Problem(f"{shared} heads of keys for {heads} of queries in the tower", "as many")
        )
    theta = c.vision.part("rope_parameters").get("rope_theta", number(), _THETA)
    if theta != _THETA:
        problems.append(
            Problem(
                f"config.json has vision_config.rope_parameters.rope_theta = {theta}", str(_THETA)
            )
        )
    return problems


def _text_checks(c: TowerConfig) -> list[Problem]:
    """llama.cpp tells from the width whether tokens of a picture see all of it."""
    problems: list[Problem] = []
    width = c.text.need("hidden_size", _SIZE)
    given, expected = c.text.values.get("use_bidirectional_attention"), "vision"
    if width in _CAUSAL_WIDTHS:
        expected = None
    if given != expected:
        problems.append(
            Problem(
                f"config.json has use_bidirectional_attention = {given} in a text of {width}",
                f"{expected}, which llama.cpp computes at this width",
                "no stock runtime computes what the text makes of a picture",
            )
        )
    padding = c.text.get("pad_token_id", whole(), 0)
    if c.text.get("hidden_size_per_layer_input", whole(), 0) and padding:
        problems.append(
            Problem(
                f"config.json has pad_token_id = {padding}, whose embeddings per layer a picture "
                "gets",
                "0, which llama.cpp takes",
            )
        )
    return problems


def _squares(name: str, tensor: Tensor) -> Tensor:
    """Rows of pixels of three colours each as one small picture per colour."""
    hidden, pixels = tensor.shape
    side = round((pixels // 3) ** 0.5)

    def apart(values: F32) -> F32:
        parts = values.reshape(hidden, side, side, 3)
        return np.ascontiguousarray(parts.transpose(0, 3, 1, 2))

    return Refolded(name, tensor, (hidden, 3, side, side), apart)


def _one(name: str, tensor: Tensor) -> Tensor:
    """A number as a vector of one."""
    return Refolded(name, tensor, (1,))


_LIMITS_OF_LAYER = [
    f"v.blk.{{}}.{part}.{limit}" for part, _ in _MATRICES.values() for limit in _LIMITS
]

TOWER = Tower(
    projector="gemma4v",
    summary="Gemma 4: positions of two axes, patches averaged in squares",
    architectures=("Gemma4ForConditionalGeneration",),
    owns=(r"(?:model\.)?vision_tower\.", r"(?:model\.)?(?=embed_vision\.)"),
    names={
        "patch_embedder.input_proj.weight": _PATCH,
        "patch_embedder.position_embedding_table": _POSITIONS,
        **{
            f"{_LAYER}{module}.linear.weight": f"v.blk.{{}}.{part}.weight"
            for module, (part, _) in _MATRICES.items()
        },
        **{
            f"{_LAYER}{module}.weight": f"v.blk.{{}}.{part}.weight"
            for module, (part, _) in _NORMS.items()
        },
        "embed_vision.embedding_projection.weight": _PROJECTION,
    },
    names_of=_names_of,
    given=_given,
    shapes={
        _PATCH: ("hidden", "pixels"),
        _POSITIONS: ("axes", "positions", "hidden"),
        **{f"v.blk.{{}}.{p}.weight": shape for p, shape in (_MATRICES | _NORMS).values()},
        **dict.fromkeys(_LIMITS_OF_LAYER, ()),
        **dict.fromkeys(_STANDARD.values(), ("hidden",)),
        _PROJECTION: ("text", "hidden"),
    },
    sizes=_sizes,
    forms={_PATCH: _squares, **dict.fromkeys(_LIMITS_OF_LAYER, _one)},
    whole={_PATCH: "f32", _POSITIONS: "f32"},
    metadata=_metadata,
    defaults={
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 16,
        "num_attention_heads": 12,
        "head_dim": 64,
        "patch_size": 16,
        "pooling_kernel_size": 3,
        "position_embedding_size": 10240,
        "hidden_activation": "gelu_pytorch_tanh",
    },
    fixed={
        "hidden_activation": ("gelu_pytorch_tanh", "gelu_new"),
        "attention_bias": (False,),
    },
    checks=_checks,
)
