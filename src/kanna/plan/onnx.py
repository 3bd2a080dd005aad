"""Presets of ONNX: the width of MatMulNBits of each matrix, and the arithmetic of its node."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import partial

from kanna import encodings
from kanna.encodings.grouped import channel
from kanna.encodings.grouped.nbits import GROUPS, parse
from kanna.errors import PlanError
from kanna.model import Model, columns
from kanna.plan import roles
from kanna.plan.file import Plan, RuleModel
from kanna.plan.onnx_derived import DERIVED
from kanna.plan.presets import Preset, rule_for

DEFAULT, WHOLE = "int4", "fp32"
"""The preset that is taken when none is named, and the one that changes no weight."""
NBITS = {
    "int4": "4 bits in groups of 32, the head and the embedding in 8",
    "int4-mixed": "4 bits in groups of 32; 8 for head, embedding, and values and the way down in"
    " some layers",
    "w8": "8 bits in groups of 32",
}
"""Presets whose matrices are nodes of MatMulNBits."""
EXACT, INT8 = 0, 4
"""accuracy_level of a node: float32 arithmetic, or inputs rounded to 8 bits, which is faster.

Inputs are rounded group by group. INT8 is what a plan that says nothing gets, measured in
docs/onnx.md: with 4 bits it costs a hundredth of the KL, with 2 and 8 bits EXACT has no kernel.
"""
CANDIDATES = (
    "nbits2g32",
    "nbits2g64",
    "nbits4g16",
    "nbits4g16s",
    "nbits4g32",
    "nbits4g32s",
    "nbits4g64",
    "nbits4g128",
    "nbits8g32",
    "nbits8g64s",
    "nbits8g128s",
    "f32",
)
"""What onnxruntime's CPU kernels multiply by at full speed.

2 bits in groups of 16 take a hundred times longer.
"""
KERNELS = (4,)
"""Bits of codes that onnxruntime multiplies in float32 without widening the matrix each time."""


def _nbits(name: str, model: Model, _weighted: bool, _float_type: str) -> Plan:
    """One rule per matrix of `model`; a group is the largest that divides its rows, up to 32."""
    layers = model.whole("{arch}.block_count", 0)
    tied = "output.weight" not in model.tensors
    rules: list[RuleModel] = []
    for tensor_name, tensor in model.tensors.items():
        if not roles.quantizable(tensor):
            continue
        role = roles.role(tensor_name, tied=tied)
        bits = 8 if name == "w8" or role in ("output", "embedding") else 4
        if (
            name == "int4-mixed"
            and role in ("attn_v", "ffn_down")
            and roles.in_more_bits(roles.layer(tensor_name) or 0, layers)
        ):
            bits = 8
        group = next((g for g in (32, 16) if columns(tensor) % g == 0), 0)
        rules.append(rule_for(tensor_name, f"nbits{bits}g{group}" if group else "f32"))
    return Plan(name=f"onnx:{name}", encoding="f32", rules=rules)


def _floats(name: str, _model: Model, _weighted: bool, _float_type: str) -> Plan:
    """Every weight in float32: what is made from the whole graph changes them afterwards."""
    return Plan(name=name, encoding="f32")


def by_channel(plan: Plan) -> bool:
    """Whether matrices of a plan have a scale per channel, as NPUs multiply them."""
    return any(map(channel.bits_of, _named(plan)))


def channel_plan(name: str) -> Plan:
    """The plan that a preset is whose graph has QDQ nodes with activations of 16 bits."""
    derived = DERIVED[name]
    wide, own = channel.name_of(8), channel.name_of(derived.bits)
    rules = [
        RuleModel(pattern=f"^{role}\\.weight$", encoding=wide, method="gptq")
        for role in ("token_embd", *(("output",) if own != wide else ()))
    ]
    return Plan(
        name=name,
        encoding=own,
        rules=rules,
        activation_codes="all" if derived.full else "products",
    )


def _named(plan: Plan) -> set[str]:
    return {r.encoding for r in plan.rules} | ({plan.encoding} if plan.encoding else set())


def check_encodings(plan: Plan) -> None:
    """PlanError for an encoding that ONNX has no operator for, and for a mixture of two kinds."""
    grouped = next((wanted for wanted in sorted(_named(plan)) if parse(wanted)), None)
    for wanted in sorted(_named(plan)):
        if parse(wanted) is None and channel.bits_of(wanted) is None and wanted != "f32":
            raise PlanError(
                f"no operator of onnxruntime multiplies by {wanted}",
                expected="nbits4g32 and the like, int4_channel or int8_channel, or f32",
                todo="write a GGUF instead: --format gguf",
            )
        if grouped and channel.bits_of(wanted):
            raise PlanError(
                f"the plan has {grouped}, whose scales are those of groups, and {wanted}, whose "
                "scales are those of channels",
                expected="one of the two kinds in a graph",
                todo="int4_channel and int8_channel for an NPU, nbits4g32 and its like elsewhere",
            )
    if plan.activation_codes is not None and not by_channel(plan):
        raise PlanError(
            f'"activation_codes": "{plan.activation_codes}" in a plan without codes per channel',
            expected="int4_channel or int8_channel in its rules",
        )


def check_shapes(model: Model, plan: Plan) -> None:
    """PlanError for groups that do not divide the rows of a matrix."""
    for name, tensor in model.tensors.items():
        if not roles.quantizable(tensor):
            continue
        wanted = next(
            (r.encoding for r in plan.rules if re.search(r.pattern, name)), plan.encoding or "f32"
        )
        encoding, cols = encodings.get(wanted), columns(tensor)
        if cols % encoding.block:
            raise PlanError(
                f"{encoding.label} cannot hold {name}, whose rows have {cols} values",
                expected=f"a multiple of {encoding.block}",
                todo=f"use groups of {_largest(cols, encoding.block)}"
                if _largest(cols, encoding.block)
                else "use f32",
            )


def _largest(cols: int, below: int) -> int:
    return max((g for g in GROUPS if g < below and cols % g == 0), default=0)


def widest(kinds: Iterable[str]) -> str:
    """Of several encodings that one node must share, the one with the most bits."""
    return max(kinds, key=lambda name: encodings.get(name).bits)


def _presets() -> dict[str, Preset]:
    where = f"{__name__}:PRESETS"
    whole = Preset(
        name=WHOLE,
        summary="the weights in float32",
        make=partial(_floats, WHOLE),
        derived=True,
        where=where,
    )
    derived = [
        Preset(
            name=name,
            summary=made.summary,
            make=partial(_floats, name),
            derived=True,
            facts=made.facts,
            where=where,
        )
        for name, made in DERIVED.items()
    ]
    nbits = [
        Preset(name=name, summary=summary, make=partial(_nbits, name), where=where)
        for name, summary in NBITS.items()
    ]
    return {preset.name: preset for preset in (whole, *nbits, *derived)}


PRESETS = _presets()
