"""Experts of a layer as one node of ONNX, which has one width and one size of groups for all."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from kanna.encodings.grouped.nbits import NBits, parse
from kanna.errors import PlanError
from kanna.formats.onnx.graph_data import Matrix
from kanna.model import Tensor
from kanna.plan import TensorPlan
from kanna.plan import onnx as presets

BITS = (4, 8)
"""Widths that onnxruntime's CPU has a QMoE of; with 2 bits it asks for CUDA."""
_STACK = re.compile(r"blk\.(\d+)\.ffn_(?:gate|up|down)_exps\.weight")


def is_expert(name: str) -> bool:
    """Whether a tensor of a GGUF is a stack of experts."""
    return _STACK.fullmatch(name) is not None


def has_kernel(encoding: str) -> bool:
    """Whether onnxruntime's CPU computes experts in an encoding."""
    kind = parse(encoding)
    return kind is None or kind.bits in BITS


def members(name: str, tensors: Mapping[str, Tensor]) -> list[str]:
    """The stacks of one layer's experts, `name` among them; [] where it is none."""
    match = _STACK.fullmatch(name)
    return [n for n in _names(match[1]) if n in tensors] if match else []


def _names(layer: int | str) -> list[str]:
    return [f"blk.{layer}.ffn_{kind}_exps.weight" for kind in ("gate", "up", "down")]


def common(kinds: Iterable[str]) -> str:
    """One encoding for what was meant to have several.

    The widest codes, in the smallest groups, which divide the rows of all; floats where any are.

    Raises:
        PlanError: Codes of a width that onnxruntime's CPU has no experts of.
    """
    names = list(kinds)
    shapes = [shape for name in names if (shape := parse(name)) is not None]
    if len(shapes) < len(names):
        return presets.widest(names)
    bits = max(shape.bits for shape in shapes)
    if bits not in BITS:
        raise PlanError(
            f"onnxruntime computes no experts of {bits} bits on a CPU",
            expected=" or ".join(f"nbits{known}g32" for known in BITS),
            todo="give ffn_gate_exps, ffn_up_exps and ffn_down_exps one of them",
        )
    group = min(shape.group for shape in shapes)
    zero = "" if any(shape.zero for shape in shapes) else "s"
    width = "" if all(shape.half for shape in shapes) else "_f32"
    return f"nbits{bits}g{group}{zero}{width}"


def stacks(layer: int, entries: Mapping[str, TensorPlan]) -> Sequence[Matrix] | None:
    """What a node has of a layer's experts: gates and ups in turn, and downs; None for floats."""
    gates, ups, downs = (entries[name] for name in _names(layer))
    kind = parse(gates.encoding.name)
    if kind is None:
        return None
    return [_stack(kind, parts) for parts in ([gates, ups], [downs])]


def _stack(kind: NBits, parts: Sequence[TensorPlan]) -> Matrix:
    experts = parts[0].tensor.shape[0]
    return Matrix(kind=kind, parts=parts, accuracy=presets.INT8, experts=experts)
