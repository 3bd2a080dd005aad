"""Presets of MLX: which matrix gets which width.

Those called mixed_LOW_HIGH give every matrix what mlx-lm's recipe of that name gives it
(mlx_lm/convert.py).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial

from kanna import encodings
from kanna.encodings import transcoding
from kanna.encodings.grouped.affine import NUMBERS, name_of
from kanna.errors import PlanError
from kanna.model import Model
from kanna.plan import roles
from kanna.plan.file import Plan, RuleModel
from kanna.plan.presets import Preset, rule_for

DEFAULT = "q4"
GROUP = 64
_WIDTHS = tuple((bits, group) for bits in (2, 3, 4, 5, 6, 8) for group in (32, 64, 128))


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How many bits a matrix gets.

    Attributes:
        bits: Of every matrix.
        high: Of the head, and of values and the way down in some layers.
        encoding: Of every matrix: another mode than affine, or a floating type.
        tied_too: A head that is the embedding counts as a head.
    """

    summary: str
    bits: int = 0
    high: int = 0
    tied_too: bool = False
    encoding: str = ""


RECIPES = {
    "q2": Recipe(summary="2 bits in groups of 64", bits=2),
    "q3": Recipe(summary="3 bits in groups of 64", bits=3),
    "q4": Recipe(summary="4 bits in groups of 64: the usual choice", bits=4),
    "q5": Recipe(summary="5 bits in groups of 64", bits=5),
    "q6": Recipe(summary="6 bits in groups of 64", bits=6),
    "q8": Recipe(summary="8 bits in groups of 64", bits=8),
    "mixed": Recipe(
        summary="4 bits; 6 for the head, and for values and the way down in the first, last and"
        " every third layer",
        bits=4,
        high=6,
        tied_too=True,
    ),
    "mixed_2_6": Recipe(summary="mlx-lm's recipe of that name", bits=2, high=6),
    "mixed_3_4": Recipe(summary="mlx-lm's recipe of that name", bits=3, high=4),
    "mixed_3_6": Recipe(summary="mlx-lm's recipe of that name", bits=3, high=6),
    "mixed_4_6": Recipe(summary="mlx-lm's recipe of that name", bits=4, high=6),
    "mxfp4": Recipe(summary="4-bit floats with a power of two per 32 values", encoding="mxfp4g32"),
    "mxfp8": Recipe(summary="8-bit floats with a power of two per 32 values", encoding="mxfp8g32"),
    "nvfp4": Recipe(summary="4-bit floats with an 8-bit float per 16 values", encoding="nvfp4g16"),
    "bf16": Recipe(summary="every weight in bfloat16", encoding="bf16"),
    "f16": Recipe(summary="every weight in float16", encoding="f16"),
    "f32": Recipe(summary="every weight in float32", encoding="f32"),
    "exact": Recipe(
        summary="the blocks of a quantized source as they are; 8 bits where MLX cannot hold them"
    ),
}


def _plan(name: str, model: Model, _: bool, float_type: str) -> Plan:
    """The recipe as a plan for `model`, with scales of type `float_type`."""
    chosen = RECIPES[name]
    if name == "exact":
        return _exact(model, float_type)
    if chosen.encoding:
        return Plan(name=f"mlx:{name}", encoding=chosen.encoding)
    base, high = (
        name_of(chosen.bits, GROUP, float_type),
        name_of(chosen.high or chosen.bits, GROUP, float_type),
    )
    layers = model.whole("{arch}.block_count", 0)
    tied = "output.weight" not in model.tensors
    rules: list[RuleModel] = []
    for tensor_name, tensor in model.tensors.items() if chosen.high else ():
        role = roles.role(tensor_name, tied=tied)
        head = role == "output" and (not tied or chosen.tied_too)
        # A matrix of queries, keys and values in one is none of values for mlx-lm.
        wide = role in ("attn_v", "ffn_down") and "attn_qkv" not in tensor_name
        if roles.quantizable(tensor) and (
            head or (wide and roles.in_more_bits(roles.layer(tensor_name) or 0, layers))
        ):
            rules.append(rule_for(tensor_name, high))
    return Plan(name=f"mlx:{name}", encoding=base, rules=rules)


def _exact(model: Model, float_type: str) -> Plan:
    """Every matrix in the encoding that holds its blocks as they are, or in 8 bits."""
    rules: list[RuleModel] = []
    for name, tensor in model.tensors.items():
        if not roles.quantizable(tensor) or encodings.get(tensor.dtype).block == 1:
            continue
        held = transcoding.target(tensor.dtype)
        wanted = held or name_of(8, 32, "f16")
        method = "nearest" if held else "search"
        rules.append(rule_for(name, wanted, method))
    if not rules:
        raise PlanError(
            "the source holds no quantized blocks", expected="a quantized GGUF", todo="use mlx:q4"
        )
    return Plan(name="mlx:exact", encoding=float_type, rules=rules)


def float_type(model: Model) -> str:
    """The floating type most of the model has, for scales and what is not quantized.

    A model without float matrices gets that of its scales, or float16.
    """
    sizes: dict[str, int] = {}
    scales: dict[str, int] = {}
    for tensor in model.tensors.values():
        if len(tensor.shape) > 1:
            encoding = encodings.get(tensor.dtype)
            where, name = (
                (scales, encoding.planes[1].dtype) if encoding.planes else (sizes, encoding.name)
            )
            if name in NUMBERS:  # the scales of a float mode are bytes, and say nothing
                where[name] = where.get(name, 0) + tensor.nbytes
    counted = sizes or scales
    return max(counted, key=lambda n: counted[n]) if counted else "f16"


def number_for(model: Model) -> str:
    """The type of scales and of what is not quantized.

    That of the model, float16 where its matrices are float32: scales and biases in float32 take two
    bits per weight at groups of 32, and gain nothing over half of that.
    """
    wide = any(t.dtype == "f32" and len(t.shape) == 2 for t in model.tensors.values())
    number = float_type(model)
    return "f16" if number == "f32" and wide else number


def candidates(model: Model) -> tuple[str, ...]:
    """What `optimize` chooses from: every width and group, and floats."""
    number = number_for(model)
    return (*(name_of(bits, group, number) for bits, group in _WIDTHS), number)


def _preset(name: str, recipe: Recipe) -> Preset:
    facts = {k.replace("_", " "): v for k, v in asdict(recipe).items() if k != "summary" and v}
    return Preset(
        name=name,
        summary=recipe.summary,
        make=partial(_plan, name),
        facts=facts,
        where=f"{__name__}:PRESETS",
    )


PRESETS = {name: _preset(name, recipe) for name, recipe in RECIPES.items()}
