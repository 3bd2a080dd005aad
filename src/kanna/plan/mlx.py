"""Presets of MLX: which matrix gets which width.

Those called mixed_LOW_HIGH give every matrix what mlx-lm's recipe of that name gives it
(mlx_lm/convert.py).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from kanna import encodings
from kanna.encodings import transcoding
from kanna.encodings.grouped.affine import name_of
from kanna.errors import PlanError
from kanna.model import Model
from kanna.plan import roles
from kanna.plan.file import Plan, RuleModel

GROUP = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """bits of every matrix.

    `high` bits for the head, and for values and the way down in some layers.

    Attributes:
        encoding: Of every matrix: another mode than affine, or a floating type.
        tied_too: A head that is the embedding counts as a head.
    """

    summary: str
    bits: int = 0
    high: int = 0
    tied_too: bool = False
    encoding: str = ""


PRESETS = {
    "q2": Preset(summary="2 bits in groups of 64", bits=2),
    "q3": Preset(summary="3 bits in groups of 64", bits=3),
    "q4": Preset(summary="4 bits in groups of 64: the usual choice", bits=4),
    "q5": Preset(summary="5 bits in groups of 64", bits=5),
    "q6": Preset(summary="6 bits in groups of 64", bits=6),
    "q8": Preset(summary="8 bits in groups of 64", bits=8),
    "mixed": Preset(
        summary="4 bits; 6 for the head, and for values and the way down in the first, last and every third layer",
        bits=4,
        high=6,
        tied_too=True,
    ),
    "mixed_2_6": Preset(summary="mlx-lm's recipe of that name", bits=2, high=6),
    "mixed_3_4": Preset(summary="mlx-lm's recipe of that name", bits=3, high=4),
    "mixed_3_6": Preset(summary="mlx-lm's recipe of that name", bits=3, high=6),
    "mixed_4_6": Preset(summary="mlx-lm's recipe of that name", bits=4, high=6),
    "mxfp4": Preset(summary="4-bit floats with a power of two per 32 values", encoding="mxfp4g32"),
    "mxfp8": Preset(summary="8-bit floats with a power of two per 32 values", encoding="mxfp8g32"),
    "nvfp4": Preset(summary="4-bit floats with an 8-bit float per 16 values", encoding="nvfp4g16"),
    "bf16": Preset(summary="every weight in bfloat16", encoding="bf16"),
    "f16": Preset(summary="every weight in float16", encoding="f16"),
    "f32": Preset(summary="every weight in float32", encoding="f32"),
    "exact": Preset(
        summary="the blocks of a quantized source as they are; 8 bits where MLX cannot hold them"
    ),
}


def preset(name: str, model: Model, number: str) -> Plan:
    """The preset as a plan for `model`, with scales of type `number`."""
    if name not in PRESETS:
        raise PlanError(
            f"no preset {name!r} for mlx", expected=", ".join(f"mlx:{p}" for p in PRESETS)
        )
    chosen = PRESETS[name]
    if name == "exact":
        return _exact(model)
    if chosen.encoding:
        return Plan(name=f"mlx:{name}", encoding=chosen.encoding)
    base, high = (
        name_of(chosen.bits, GROUP, number),
        name_of(chosen.high or chosen.bits, GROUP, number),
    )
    layers = int(model.meta("{arch}.block_count", 0) or 0)
    tied = "output.weight" not in model.tensors
    rules: list[RuleModel] = []
    for tensor_name, tensor in model.tensors.items() if chosen.high else ():
        role = roles.role(tensor_name, tied=tied)
        head = role == "output" and (not tied or chosen.tied_too)
        # A matrix of queries, keys and values in one is none of values for mlx-lm.
        wide = role in ("attn_v", "ffn_down") and "attn_qkv" not in tensor_name
        if roles.quantizable(tensor) and (
            head or (wide and _more(roles.layer(tensor_name) or 0, layers))
        ):
            rules.append(RuleModel(pattern=f"^{re.escape(tensor_name)}$", encoding=high))
    return Plan(name=f"mlx:{name}", encoding=base, rules=rules)


def _more(layer: int, count: int) -> bool:
    """The first and last eighth of the layers, and every third between them."""
    eighth = count // 8
    return layer < eighth or layer >= 7 * count // 8 or (layer - eighth) % 3 == 2


def _exact(model: Model) -> Plan:
    """Every matrix in the encoding that holds its blocks as they are.

    8 bits where there is none.
    """
    rules: list[RuleModel] = []
    for name, tensor in model.tensors.items():
        if not roles.quantizable(tensor) or encodings.get(tensor.dtype).block == 1:
            continue
        held = transcoding.target(tensor.dtype)
        wanted = held or name_of(8, 32, "f16")
        method = "nearest" if held else "search"
        rules.append(RuleModel(pattern=f"^{re.escape(name)}$", encoding=wanted, method=method))
    if not rules:
        raise PlanError(
            "the source holds no quantized blocks", expected="a quantized GGUF", todo="use mlx:q4"
        )
    return Plan(name="mlx:exact", encoding="f16", rules=rules)
