"""A float graph with its matrices as MatMulNBits, its embedding as GatherBlockQuantized.

The graph says where matrices are used; their values come from the model itself, row block by row
block, straight to their planes in the external data. What stays in floats is carried over as bytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kanna._util.progress import Progress
from kanna.errors import GateError, UnsupportedError
from kanna.formats.onnx.build import DATA, GRAPH
from kanna.formats.onnx.graph_data import FLOAT, UINT8, GraphData, Matrix, MatrixPlace, StoredMatrix
from kanna.formats.stored_file import StoredFile
from kanna.formats.stream import File, Spread, fill
from kanna.model import Tensor, num_rows
from kanna.plan.types import TensorPlan

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
DOMAIN = "com.microsoft"
_MATRIX = re.compile(r"(model\.layers\.\d+)\.(attn|mlp)\.([\w.]+)\.MatMul\.weight")
_SHARED = {
    "shared_expert.gate_proj": "shared_mlp.gate",
    "shared_expert.up_proj": "shared_mlp.up",
    "shared_expert.down_proj": "shared_mlp.output_linear",
}
"""What Granite calls the parts of an expert that every token passes."""
_STACKS, _BIASES = (2, 4), (3, 5)
"""Inputs of `MoE`: gates and ups, and downs."""
_EXPERTS = re.compile(r"/model/layers\.(\d+)/moe/MoE")
_JOINED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}


def joined(name: str, tensors: Mapping[str, Tensor]) -> list[str]:
    """Hugging Face names of the matrices in the fused node of `name`, itself among them, in order.

    The model builder makes one matrix of q, k and v.
    """
    before, _, part = name.removesuffix(".weight").rpartition(".")
    for members in _JOINED.values():
        if part in members and part.startswith(("q_", "k_", "v_")):
            return [f"{before}.{m}.weight" for m in members if f"{before}.{m}.weight" in tensors]
    return [name]


def sources(initializer: str, tensors: Mapping[str, Tensor]) -> list[str]:
    """Hugging Face names of the matrices in an initializer of the builder's graph, in order.

    [] for an initializer that holds no matrix of the model.
    """
    if initializer in ("lm_head.MatMul.weight", "lm_head.weight"):
        return [HEAD if HEAD in tensors else EMBEDDING]
    match = _MATRIX.fullmatch(initializer)
    if match is None:
        return []
    layer, block, part = match.groups()
    block = "self_attn" if block == "attn" else block
    for single in (f"{layer}.{block}.{part}.weight", f"{layer}.{_SHARED.get(part)}.weight"):
        if single in tensors:
            return [single]
    names = [f"{layer}.{block}.{member}.weight" for member in _JOINED.get(part, ())]
    return names if names and all(n in tensors for n in names) else []


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A graph ready to be written: its protobuf, and the layout of its external data."""

    graph: bytes
    data: Sequence[TensorPlan]
    offsets: Sequence[int]
    data_bytes: int
    spread: Spread
    places: Mapping[int, MatrixPlace]

    def held(self, folder: Path, entry: TensorPlan) -> Tensor:
        """The matrix of an entry, which is part of a node, as the written `folder` holds it."""
        return StoredMatrix(entry, self.places[id(entry)], StoredFile(folder / DATA))

    @property
    def nbytes(self) -> int:
        """Bytes of the graph and its data."""
        return len(self.graph) + self.data_bytes

    def write(self, out: Path, *, threads: int, nonfinite: str, progress: Progress) -> int:
        """Write model.onnx and its data in the folder `out`.

        Returns the peak of our own memory in bytes.
        """
        file = File(
            path=out / DATA,
            header=b"",
            offsets=self.offsets,
            tensors=self.data,
            total_bytes=self.data_bytes,
            spread=self.spread,
        )
        peak = fill(
            [file], threads=threads, progress=progress, nonfinite=nonfinite, stage="quantize"
        )
        (out / GRAPH).write_bytes(self.graph)
        return peak


def prepare(
    graph: Path,
    *,
    tensors: Mapping[str, Tensor],
    choose: Callable[[Sequence[str]], Matrix | None],
    experts: Callable[[int], Sequence[Matrix] | None],
    embedding: Matrix | TensorPlan,
    properties: Mapping[str, str],
) -> Prepared:
    """The graph in the folder `graph` with quantized matrices.

    Args:
        graph: Folder of the float graph.
        tensors: By Hugging Face name, what the graph was built from.
        choose: Of the matrices in one node, by name, what they become; None leaves them in floats.
        experts: Of a layer, what the matrices of its experts become: gates and ups, and downs; None
            leaves them in floats.
        embedding: What the embedding becomes; the matrix of the head itself, where they share one.
        properties: For the metadata of the graph.

    Raises:
        GateError: The graph does not hold the model's matrices.
    """
    import onnx

    model: Any = onnx.load(str(graph / GRAPH), load_external_data=False)
    rewriter = _Rewriter(graph, model)
    initializers = {i.name: i for i in model.graph.initializer}
    lookup = next(
        n
        for n in model.graph.node
        if n.op_type == "Gather" and n.name.startswith("/model/embed_tokens/")
    )
    for node in model.graph.node:
        if node.op_type == "Transpose" and node.output[0] == lookup.input[0]:
            continue  # of the head, which the embedding shares
        if node is lookup:
            rewriter.embed(node, embedding)
            continue
        stacks = experts(int(of[1])) if (of := _EXPERTS.fullmatch(node.name)) else None
        if stacks is not None:
            rewriter.route(node, [initializers[node.input[i]] for i in _STACKS], stacks)
            continue
        weight = initializers.get(node.input[1]) if node.op_type == "MatMul" else None
        names = sources(weight.name, tensors) if weight is not None else []
        matrix = choose(names) if names else None
        if matrix is None or weight is None:
            rewriter.nodes.append(node)
        else:
            rewriter.multiply(node, weight, matrix)
    return rewriter.finish(properties)


class _Rewriter:
    """The nodes of the new graph, made of those of the old one in their order."""

    def __init__(self, folder: Path, model: Any) -> None:
        self.nodes: list[Any] = []
        self._model, self._data = model, GraphData(folder)
        self._names: dict[int, str] = {}
        """Under which name each matrix was written, by its identity."""
        self._casts: dict[str, str] = {}
        self._replaced: set[str] = set()
        self._used: set[str] = set()

    def embed(self, node: Any, embedding: Matrix | TensorPlan) -> None:
        """Replace the node that looks up the embedding."""
        from onnx import helper

        output, ids = node.output[0], node.input[1]
        self._replaced.add(node.input[0])
        if not isinstance(embedding, Matrix):
            self._data.floats(EMBEDDING, embedding)
            self.nodes.append(
                helper.make_node("Gather", [EMBEDDING, ids], [output], name=node.name)
            )
            return
        codes, *rest = self._inputs("model.embed_tokens", embedding, by_row=True)
        self.nodes.append(
            helper.make_node(
                "GatherBlockQuantized",
                [codes, ids, *rest],
                [output],
                name=node.name,
                domain=DOMAIN,
                bits=embedding.kind.bits,
                block_size=embedding.kind.group,
                gather_axis=0,
                quantize_axis=1,
            )
        )

    def multiply(self, node: Any, weight: Any, matrix: Matrix) -> None:
        """Replace a MatMul by `weight`; GateError when that is not `matrix`."""
        from onnx import helper

        _check(weight, matrix, self._data)
        self._replaced.add(weight.name)
        name = weight.name.removesuffix(".MatMul.weight")
        inputs = self._inputs(name, matrix, by_row=False)
        self.nodes.append(
            helper.make_node(
                "MatMulNBits",
                [node.input[0], *inputs],
                node.output,
                name=node.name,
                domain=DOMAIN,
                K=matrix.cols,
                N=matrix.rows,
                bits=matrix.kind.bits,
                block_size=matrix.kind.group,
                accuracy_level=matrix.accuracy,
            )
        )

    def route(self, node: Any, weights: Sequence[Any], stacks: Sequence[Matrix]) -> None:
        """Replace a MoE by QMoE; GateError when its weights are not `stacks`."""
        from onnx import helper

        both: list[list[str]] = []
        for old, matrix in zip(weights, stacks, strict=True):
            _check_stack(old, matrix, self._data)
            self._replaced.add(old.name)
            inputs = self._inputs(old.name.removesuffix(".weight"), matrix, by_row=False)
            both.append([*inputs, ""][:3])
        biases = [node.input[i] if i < len(node.input) else "" for i in _BIASES]
        planes = [[*names[:2], bias] for names, bias in zip(both, biases, strict=True)]
        zeros = [names[2] for names in both]
        kind = stacks[0].kind
        inputs = [*node.input[:2], *planes[0], *planes[1], "", "", "", *zeros, ""]
        made = helper.make_node(
            "QMoE",
            [*inputs, *self._shares(node)],
            node.output,
            name=node.name,
            domain=DOMAIN,
            expert_weight_bits=kind.bits,
            block_size=kind.group,
        )
        made.attribute.extend(node.attribute)
        self.nodes.append(made)

    def _shares(self, node: Any) -> list[str]:
        """Weights of experts that need not add up to 1, which QMoE takes and does not compute."""
        from onnx import helper

        if next(a.i for a in node.attribute if a.name == "normalize_routing_weights"):
            return []
        shares = f"{node.name}/Softmax/output_0"
        self.nodes.append(
            helper.make_node("Softmax", [node.input[1]], [shares], name=f"{node.name}/Softmax")
        )
        return [shares]

    def _inputs(self, name: str, matrix: Matrix, *, by_row: bool) -> list[str]:
        """Names of codes, scales and zeros; the matrix is written the first time."""
        if id(matrix) not in self._names:
            self._add(name, matrix)
        name = self._names[id(matrix)]
        codes = f"{name}_rows" if by_row else f"{name}_codes"
        self._used.add(codes)
        names = [codes, self._casts.get(name, f"{name}_scales")]
        return names + ([f"{name}_zeros"] if matrix.kind.zero else [])

    def _add(self, name: str, matrix: Matrix) -> None:
        from onnx import helper

        place = self._data.matrix(name, matrix)
        self._names[id(matrix)] = name
        if matrix.kind.half:
            self._casts[name] = f"{name}_scales_float"
            self.nodes.append(
                helper.make_node(
                    "Cast", [f"{name}_scales"], [self._casts[name]], name=f"/{name}/Cast", to=FLOAT
                )
            )
        if matrix.experts:
            return
        # Gather reads rows, MatMul groups: two views of the same bytes.
        row_bytes = matrix.cols // matrix.kind.group * matrix.kind.code_bytes
        self._data.external(f"{name}_rows", UINT8, (matrix.rows, row_bytes), place.codes)

    def finish(self, properties: Mapping[str, str]) -> Prepared:
        """The new graph, with the constants that its nodes still read."""
        graph, data = self._model.graph, self._data
        read = {name for node in self.nodes for name in node.input}
        for old in graph.initializer:
            if old.name not in self._replaced or (old.name in read and old.name != EMBEDDING):
                data.carry(old)
        views = ("_rows", "_codes")
        initializers = [
            i for i in data.initializers if not i.name.endswith(views) or i.name in self._used
        ]
        del graph.node[:]
        graph.node.extend(self.nodes)
        del graph.initializer[:]
        graph.initializer.extend(initializers)
        for key, value in properties.items():
            self._model.metadata_props.add(key=key, value=value)
        return Prepared(
            graph=self._model.SerializeToString(),
            data=data.tensors,
            offsets=data.offsets,
            data_bytes=data.end,
            spread=data.spread,
            places=data.places,
        )


def _check(weight: Any, matrix: Matrix, data: GraphData) -> None:
    """GateError when the node does not hold `matrix`: by shape and first row of each part."""
    if list(weight.dims) != [matrix.cols, matrix.rows]:
        raise GateError(
            f"{weight.name} has shape {list(weight.dims)}",
            expected=f"[{matrix.cols}, {matrix.rows}]",
        )
    if weight.data_type != FLOAT:
        raise UnsupportedError(f"{weight.name} is not float32", expected="a graph in float32")
    values = data.old_bytes(weight).read().view(np.float32).reshape(matrix.cols, matrix.rows)
    row = 0
    for part in matrix.parts:
        wanted = np.nan_to_num(part.tensor.rows(0, 1)[0])
        if not np.allclose(np.nan_to_num(values[:, row]), wanted, rtol=1e-6, atol=1e-12):
            raise GateError(
                f"{weight.name} does not hold {part.name}", todo="convert again with onnx:fp32"
            )
        row += num_rows(part.tensor)


def _check_stack(weight: Any, matrix: Matrix, data: GraphData) -> None:
    """GateError when a node does not hold a stack: by shape and first row of each part."""
    shape = [matrix.experts, matrix.rows // matrix.experts, matrix.cols]
    if list(weight.dims) != shape or weight.data_type != FLOAT:
        raise GateError(
            f"{weight.name} has shape {list(weight.dims)}", expected=f"{shape} in float32"
        )
    rows, size = data.old_bytes(weight), 4 * matrix.cols
    for number, part in enumerate(matrix.parts):
        held = rows.read(number * size, (number + 1) * size).view(np.float32)
        wanted = np.nan_to_num(part.tensor.rows(0, 1)[0])
        if not np.allclose(np.nan_to_num(held), wanted, rtol=1e-6, atol=1e-12):
            raise GateError(
                f"{weight.name} does not hold {part.name}", todo="convert again with onnx:fp32"
            )
