"""Presets of OpenVINO: the width and the groups of every matrix."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import partial

from kanna.encodings.grouped import channel, nbits, nf4
from kanna.model import Model, columns
from kanna.plan import roles
from kanna.plan.file import Plan, RuleModel
from kanna.plan.presets import Preset, rule_for

DEFAULT = "int4"
WIDE_GROUP = 256
"""Values per scale of head and embedding, whose 8 bits need no more."""

CANDIDATES = (
    "nbits4g32",
    "nbits4g32s",
    "nbits4g64",
    "nbits4g64s",
    "nbits4g128",
    "nbits4g128s",
    "nbits8g32",
    "nbits8g128",
    "nbits8g128s",
    "f16",
)
"""What OpenVINO's CPU plugin multiplies by without widening a matrix first."""


def runtime_options(encodings: Collection[str], *, capped: bool) -> dict[str, str]:
    """What a graph tells OpenVINO of how to run it, where whoever loads it says nothing.

    OpenVINO would round the inputs of packed matrices to 8 bits. Where sums are bfloat16 too, that
    spoils models with large activations.

    Args:
        encodings: Of the tensors.
        capped: Whether scores of attention have a cap: then OpenVINO keeps keys and values in
            float32 whatever it is told.
    """
    if capped or set(encodings) == {"f32"}:
        return {"DYNAMIC_QUANTIZATION_GROUP_SIZE": "0", "KV_CACHE_PRECISION": "f32"}
    return {"DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Widths:
    """What matrices get.

    Attributes:
        bits: Of the matrices of layers; head and embedding have 8.
        group: Values per scale; a shorter one where it does not divide the rows. 0: a scale per
            row, for all matrices, and codes around 0.
        symmetric: Codes around 0, without a zero of their own per group.
        normal: Codes of 4 bits are those of nf4.
        more: 8 bits for values and the way down in some layers.
        encoding: A floating type for all of them.
    """

    summary: str
    bits: int = 0
    group: int = 0
    symmetric: bool = False
    normal: bool = False
    more: bool = False
    encoding: str = ""


def _int4() -> dict[str, Widths]:
    made: dict[str, Widths] = {}
    for group in (32, 64, 128, 256):
        for symmetric in (False, True):
            name = "int4" + ("-sym" if symmetric else "") + (f"-g{group}" if group != 32 else "")
            made[name] = Widths(
                summary=f"4 bits in groups of {group}{', symmetric' if symmetric else ''}; head and"
                " embedding in 8",
                bits=4,
                group=group,
                symmetric=symmetric,
            )
        made["nf4" + (f"-g{group}" if group != 32 else "")] = Widths(
            summary=f"nf4 in groups of {group}; head and embedding in 8 bits",
            bits=4,
            group=group,
            normal=True,
        )
    return made


def _channels() -> dict[str, Widths]:
    return {
        f"int{bits}-channel": Widths(
            summary=f"{bits} bits with a scale per row, symmetric, as NPUs take them"
            + ("; head and embedding in 8" if bits == 4 else ""),
            bits=bits,
            symmetric=True,
        )
        for bits in channel.BITS
    }


WIDTHS = {
    **_int4(),
    "int4-mixed": Widths(
        summary="4 bits in groups of 32; 8 for head, embedding, and values and the way down in some"
        " layers",
        bits=4,
        group=32,
        more=True,
    ),
    "int8": Widths(summary="8 bits in groups of 128", bits=8, group=128),
    "int8-sym": Widths(
        summary="8 bits in groups of 128, symmetric", bits=8, group=128, symmetric=True
    ),
    **_channels(),
    "f16": Widths(summary="every matrix in float16", encoding="f16"),
    "f32": Widths(summary="the weights in float32", encoding="f32"),
}


def _plan(name: str, model: Model, _weighted: bool, _float_type: str) -> Plan:
    """One rule per matrix of `model`; a group is the largest that divides its rows."""
    widths = WIDTHS[name]
    if widths.encoding:
        return Plan(name=f"openvino:{name}", encoding=widths.encoding)
    layers = model.whole("{arch}.block_count", 0)
    tied = "output.weight" not in model.tensors
    rules: list[RuleModel] = []
    for tensor_name, tensor in model.tensors.items():
        if not roles.quantizable(tensor):
            continue
        role = roles.role(tensor_name, tied=tied)
        bits, most = widths.bits, widths.group
        more = widths.more and role in ("attn_v", "ffn_down")
        if role in ("output", "embedding"):
            bits, most = 8, WIDE_GROUP
        elif more and roles.in_more_bits(roles.layer(tensor_name) or 0, layers):
            bits = 8
        rules.append(rule_for(tensor_name, _encoding(widths, bits, most, columns(tensor))))
    return Plan(name=f"openvino:{name}", encoding="f16", rules=rules)


def _encoding(widths: Widths, bits: int, most: int, cols: int) -> str:
    """The encoding of a matrix with rows of `cols` values, in groups of at most `most`."""
    if not widths.group:
        return channel.name_of(bits, half=True) if cols % 2 == 0 else "f16"
    normal = widths.normal and bits == 4
    sizes = nf4.GROUPS if normal else nbits.GROUPS
    group = max((g for g in sizes if g <= most and cols % g == 0), default=0)
    if not group:
        return "f16"
    return nf4.name_of(group) if normal else f"nbits{bits}g{group}{'s' * widths.symmetric}"


def _facts(widths: Widths) -> dict[str, object]:
    if widths.encoding:
        return {"encoding": widths.encoding}
    return {"bits": widths.bits, "group": widths.group}


PRESETS = {
    name: Preset(
        name=name,
        summary=widths.summary,
        make=partial(_plan, name),
        facts=_facts(widths),
        where=f"{__name__}:PRESETS",
    )
    for name, widths in WIDTHS.items()
}
