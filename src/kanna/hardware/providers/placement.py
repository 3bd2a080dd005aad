"""Which nodes of a graph an execution provider takes, by its table of operators."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kanna.formats.onnx.element_types import element_types
from kanna.hardware.providers.base import ProviderProfile

PRODUCTS = frozenset(
    [
        "Attention",
        "Gemm",
        "GroupQueryAttention",
        "MatMul",
        "MatMulInteger",
        "MatMulNBits",
        "MoE",
        "MultiHeadAttention",
        "QMoE",
    ]
)
"""Operators that do nearly all of the arithmetic."""
_DATA = {"QuantizeLinear": 2, "Where": 1}
"""Which input a table of types is of, where it is not the first."""
_STATIC = "convert with --static 64x1024, which spells it out in standard operators"
_QDQ = "convert with --preset onnx:w8a16, which multiplies codes in standard operators"
_TODO = {
    "GatherBlockQuantized": _QDQ,
    "MatMulNBits": _QDQ,
    "QMoE": "convert with --preset onnx:fp32",
    "GroupQueryAttention": _STATIC,
    "SimplifiedLayerNormalization": _STATIC,
    "SkipSimplifiedLayerNormalization": _STATIC,
    "SkipLayerNormalization": _STATIC,
    "RotaryEmbedding": _STATIC,
}
_READS = "DequantizeLinear"
_FOLDED = ("Cast", "Constant")
_SHARED = "onnxruntime computes it on the CPU"


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedNode:
    """A node that a provider does not take.

    Attributes:
        name: Of the node.
        operator: Its operator.
        type: Element type of what it reads.
        reason: What speaks against it.
        todo: What the user may do.
    """

    name: str
    operator: str
    type: str
    reason: str
    todo: str

    @property
    def is_product(self) -> bool:
        """Whether it does a good part of the arithmetic."""
        return self.operator in PRODUCTS

    def sentence(self) -> str:
        """All of it in a line."""
        return (
            f"{self.name or 'a node'} ({self.operator} of {self.type}): {self.reason}; {self.todo}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TablePlacement:
    """A graph held to the table of a provider.

    Attributes:
        nodes: How many it has.
        refused: Those that the provider does not take.
        partitions: Runs of nodes in a row that it takes: at least so many parts of the graph.
    """

    nodes: int
    refused: Sequence[RefusedNode]
    partitions: int

    @property
    def products(self) -> list[RefusedNode]:
        """Refused nodes that do a good part of the arithmetic."""
        return [node for node in self.refused if node.is_product]

    def sentence(self) -> str:
        """`707 of 710 nodes in 2 parts; not: 1 Gather of int8, …`."""
        counts = Counter((node.operator, node.type) for node in self.refused)
        named = [f"{count} {op} of {kind}" for (op, kind), count in counts.most_common(6)]
        taken = self.nodes - len(self.refused)
        parts = f"{self.partitions} part{'s' * (self.partitions != 1)}"
        return f"{taken} of {self.nodes} nodes in {parts}" + f"; not: {', '.join(named)}" * bool(
            named
        )


def place(model: Any, profile: ProviderProfile) -> TablePlacement:
    """Hold a graph to the table of a provider.

    Args:
        model: onnx.ModelProto; its external data need not be loaded.
        profile: The provider.
    """
    graph = model.graph
    types = element_types(graph)
    dynamic = _open_shape(graph) if profile.static_shapes.value else ""
    refused: list[RefusedNode] = []
    unread: dict[str, str] = {}
    partitions, inside = 0, False
    constants = {t.name for t in graph.initializer}
    nodes = 0
    for node in graph.node:
        # onnxruntime computes them once, before any provider is asked.
        if node.op_type in _FOLDED and constants.issuperset(node.input):
            constants.update(node.output)
            continue
        nodes += 1
        reasons = list(_reasons(node, types, profile, dynamic))
        reasons += _unread_weights(node, unread, profile)
        if reasons and node.op_type in profile.operators.types:
            # It reads codes, and not these: what is multiplied by them is computed elsewhere.
            unread |= {name: reasons[0].type for name in node.output if node.op_type == _READS}
        refused += reasons[:1]
        partitions += not reasons and not inside
        inside = not reasons
    return TablePlacement(nodes=nodes, refused=refused, partitions=partitions)


def _unread_weights(
    node: Any, unread: Mapping[str, str], profile: ProviderProfile
) -> Iterator[RefusedNode]:
    """A product with weights in codes that the provider does not read, by the values of these."""
    for name in node.input if node.op_type in PRODUCTS else ():
        if name in unread:
            yield RefusedNode(
                name=node.name,
                operator=node.op_type,
                type=unread[name],
                reason=f"{profile.name} reads no codes of {unread[name]}",
                todo="name another encoding, such as int8_channel",
            )


def _open_shape(graph: Any) -> str:
    """An input with a length that is not known; "" for none."""
    for given in graph.input:
        if any(not dim.HasField("dim_value") for dim in given.type.tensor_type.shape.dim):
            return given.name
    return ""


def _reasons(
    node: Any, types: dict[str, str], profile: ProviderProfile, dynamic: str
) -> Iterator[RefusedNode]:
    from onnx import helper

    domain = f"{node.domain}." if node.domain not in ("", "ai.onnx") else ""
    table = profile.operators.types
    at = _DATA.get(node.op_type, 0)
    kind = types.get(node.input[at], "float") if at < len(node.input) else "nothing"

    def refused(reason: str, todo: str) -> RefusedNode:
        return RefusedNode(
            name=node.name, operator=node.op_type, type=kind, reason=reason, todo=todo
        )

    if dynamic:
        yield refused(
            f"the length of {dynamic} is open, and {profile.name} wants every shape",
            "convert with --static 64x1024",
        )
    if f"{domain}{node.op_type}" not in table:
        yield refused(f"{profile.name} has no such operator", _TODO.get(node.op_type, _SHARED))
        return
    allowed = table[f"{domain}{node.op_type}"]
    if allowed is not None and kind not in allowed:
        yield refused(f"{profile.name} takes {', '.join(sorted(allowed))}", _SHARED)
    if node.op_type == "MatMulNBits":
        bits, block = (helper.get_node_attr_value(node, a) for a in ("bits", "block_size"))
        if not profile.multiplies(bits, block):
            yield refused(
                f"{profile.name} multiplies no weights of {bits} bits in groups of {block}",
                f"name another encoding, such as nbits{_first(profile.bits, 4)}"
                f"g{_first(profile.block_sizes, 32)}",
            )


def _first(figure: Any, default: int) -> int:
    values = figure.value if figure is not None else ()
    return default if default in values or not values else values[0]
