"""The float graph of a model with its matrices as MatMulNBits, and its embedding as GatherBlockQuantized.

The graph says where matrices are used; their values come from the model itself, row block by row block, straight to
their planes in the external data. What stays in floats is carried over as bytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from kanna._util.progress import Progress
from kanna.encodings.grouped.nbits import NBits
from kanna.errors import GateError, UnsupportedError
from kanna.formats.onnx.build import DATA, GRAPH
from kanna.formats.onnx.packing import Planes, join, split
from kanna.formats.stored import map_file, stored
from kanna.formats.stream import File, Spread, fill
from kanna.model import F32, U8, Tensor, columns, num_rows
from kanna.plan.types import TensorPlan

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
DOMAIN = "com.microsoft"
ALIGNMENT = 64
_MATRIX = re.compile(r"(model\.layers\.\d+)\.(attn|mlp)\.(\w+)\.MatMul\.weight")
_JOINED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
_FLOAT, _FLOAT16, _UINT8 = 1, 10, 2  # onnx.TensorProto
_ITEM = {1: 4, 2: 1, 3: 1, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 16: 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """Rows of one MatMul: parts of one encoding, one under the other.

    Attributes:
        accuracy: Accuracy_level of the node.
    """

    kind: NBits
    parts: Sequence[TensorPlan]
    accuracy: int

    @property
    def rows(self) -> int:
        return sum(num_rows(p.tensor) for p in self.parts)

    @property
    def cols(self) -> int:
        return columns(self.parts[0].tensor)


def joined(name: str, tensors: Mapping[str, Tensor]) -> list[str]:
    """Hugging Face names of the matrices a fused node would take along with `name`, itself among them, in order.

    The model builder makes one matrix of q, k and v.
    """
    before, _, part = name.removesuffix(".weight").rpartition(".")
    for members in _JOINED.values():
        if part in members and part.startswith(("q_", "k_", "v_")):
            return [f"{before}.{m}.weight" for m in members if f"{before}.{m}.weight" in tensors]
    return [name]


def sources(initializer: str, tensors: Mapping[str, Tensor]) -> list[str]:
    """Hugging Face names of the matrices in an initializer of the builder's graph, in order.

    [] for none of ours.
    """
    if initializer in ("lm_head.MatMul.weight", "lm_head.weight"):
        return [HEAD if HEAD in tensors else EMBEDDING]
    found = _MATRIX.fullmatch(initializer)
    if found is None:
        return []
    layer, block, part = found.groups()
    block = "self_attn" if block == "attn" else block
    single = f"{layer}.{block}.{part}.weight"
    if single in tensors:
        return [single]
    names = [f"{layer}.{block}.{member}.weight" for member in _JOINED.get(part, ())]
    return names if names and all(n in tensors for n in names) else []


@dataclass(slots=True)
class _Place:
    """Where a matrix goes: offsets of its planes, and of each part the rows above it."""

    matrix: Matrix
    codes: int
    scales: int
    zeros: int
    above: dict[int, int] = field(default_factory=dict[int, int])


class _Writer:
    """The new graph and the layout of its external data, made side by side."""

    def __init__(self, folder: Path, model: Any) -> None:
        self.folder, self.model = folder, model
        self.initializers: list[Any] = []
        self.tensors: list[TensorPlan] = []
        self.offsets: list[int] = []
        self.places: dict[int, _Place] = {}
        self.end = 0
        self.maps: dict[str, U8] = {}

    def take(self, nbytes: int) -> int:
        start = -(-self.end // ALIGNMENT) * ALIGNMENT
        self.end = start + nbytes
        return start

    def external(self, name: str, dtype: int, dims: Sequence[int], offset: int) -> None:
        import onnx

        nbytes = prod(dims) * _ITEM[dtype]
        made = onnx.TensorProto(
            name=name, data_type=dtype, dims=dims, data_location=onnx.TensorProto.EXTERNAL
        )
        for key, value in (("location", DATA), ("offset", offset), ("length", nbytes)):
            made.external_data.add(key=key, value=str(value))
        self.initializers.append(made)

    def carry(self, old: Any) -> None:
        """An initializer as it is; its bytes move to the new file."""
        if old.data_location != 1:
            self.initializers.append(old)
            return
        data = _bytes(self.folder, old, self.maps)
        offset = self.take(len(data))
        self.external(old.name, old.data_type, old.dims, offset)
        if len(data):
            tensor = stored(old.name, (len(data),), "i8", data)
            self._add(
                TensorPlan(
                    name=old.name, tensor=tensor, encoding=tensor.encoding, method="nearest"
                ),
                offset,
            )

    def floats(self, name: str, entry: TensorPlan) -> None:
        """A matrix of the model in float32, as Gather reads it."""
        offset = self.take(entry.nbytes)
        self.external(name, _FLOAT, entry.tensor.shape, offset)
        self._add(entry, offset)

    def matrix(self, name: str, matrix: Matrix) -> _Place:
        """The planes of a matrix, as initializers name_codes, name_scales and name_zeros."""
        kind, rows, groups = matrix.kind, matrix.rows, matrix.cols // matrix.kind.group
        place = _Place(
            matrix,
            self.take(rows * groups * kind.code_bytes),
            self.take(rows * groups * kind.scale_bytes),
            self.take(rows * kind.zero_bytes(groups)),
        )
        self.external(f"{name}_codes", _UINT8, (rows, groups, kind.code_bytes), place.codes)
        self.external(
            f"{name}_scales", _FLOAT16 if kind.half else _FLOAT, (rows, groups), place.scales
        )
        if kind.zero:
            self.external(f"{name}_zeros", _UINT8, (rows, kind.zero_bytes(groups)), place.zeros)
        above = 0
        for part in matrix.parts:
            self.places[id(part)] = place
            place.above[id(part)] = above
            self._add(part, place.codes)
            above += num_rows(part.tensor)
        return place

    def _add(self, entry: TensorPlan, offset: int) -> None:
        self.tensors.append(entry)
        self.offsets.append(offset)

    def spread(self, entry: TensorPlan, start: int, data: U8) -> Iterable[tuple[int, U8]] | None:
        """Where the planes of rows from `start` go."""
        place = self.places.get(id(entry))
        if place is None:
            return None
        kind, at = place.matrix.kind, start + place.above[id(entry)]
        groups = place.matrix.cols // kind.group
        planes = split(kind, data)
        pieces = [
            (place.codes + at * groups * kind.code_bytes, planes.codes),
            (place.scales + at * groups * kind.scale_bytes, planes.scales),
        ]
        if planes.zeros is not None:
            pieces.append((place.zeros + at * kind.zero_bytes(groups), planes.zeros))
        return pieces


def _bytes(folder: Path, tensor: Any, maps: dict[str, U8]) -> U8:
    entries = {e.key: e.value for e in tensor.external_data}
    name = entries["location"]
    if name not in maps:
        maps[name] = map_file(folder / name)
    offset, length = int(entries.get("offset", 0)), int(entries.get("length", 0))
    return maps[name][offset : offset + length]


class _Held:
    """A part of a node, read from the external data row by row."""

    def __init__(self, entry: TensorPlan, place: _Place, data: U8) -> None:
        self.name, self.shape, self.encoding = entry.name, tuple(entry.tensor.shape), entry.encoding
        self._place, self._data, self._above = place, data, place.above[id(entry)]

    @property
    def dtype(self) -> str:
        return self.encoding.name

    @property
    def nbytes(self) -> int:
        return self.shape[0] * self.encoding.row_bytes(self.shape[1])

    def rows(self, start: int, stop: int) -> F32:
        return self.encoding.decode(self.raw(start, stop), self.shape[1])

    def raw(self, start: int, stop: int) -> U8:
        kind, groups = self._place.matrix.kind, self.shape[1] // self._place.matrix.kind.group

        def plane(at: int, row_bytes: int) -> U8:
            first, last = (at + (self._above + row) * row_bytes for row in (start, stop))
            return self._data[first:last].reshape(stop - start, row_bytes)

        codes = plane(self._place.codes, groups * kind.code_bytes)
        scales = plane(self._place.scales, groups * kind.scale_bytes)
        zeros = plane(self._place.zeros, kind.zero_bytes(groups)) if kind.zero else None
        return join(kind, Planes(codes, scales, zeros))


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A graph ready to be written: its protobuf, and the layout of its external data."""

    graph: bytes
    data: Sequence[TensorPlan]
    offsets: Sequence[int]
    data_bytes: int
    spread: Spread
    places: Mapping[int, _Place]

    def held(self, folder: Path, entry: TensorPlan) -> Tensor:
        """The matrix of an entry, which is part of a node, as the written `folder` holds it."""
        return _Held(entry, self.places[id(entry)], map_file(folder / DATA))

    @property
    def nbytes(self) -> int:
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
    embedding: Matrix | TensorPlan,
    properties: Mapping[str, str],
) -> Prepared:
    """The graph in the folder `graph` with quantized matrices.

    Raises GateError when the graph does not hold the model's matrices.

    Args:
        tensors: By Hugging Face name, what the graph was built from.
        choose: Of the matrices in one node, by name, what they become; None leaves them in floats.
        embedding: What the embedding becomes; the matrix of the head itself, where they share one.
        properties: For the metadata of the graph.
    """
    import onnx

    model: Any = onnx.load(str(graph / GRAPH), load_external_data=False)
    writer = _Writer(graph, model)
    initializers = {i.name: i for i in model.graph.initializer}
    nodes: list[Any] = []
    casts: dict[str, str] = {}
    placed: dict[int, str] = {}
    gone: set[str] = set()
    embedded = next(
        n
        for n in model.graph.node
        if n.op_type == "Gather" and n.name.startswith("/model/embed_tokens/")
    )

    def inputs(name: str, matrix: Matrix, flat: bool) -> list[str]:
        """Names of codes, scales and zeros, written when first asked for."""
        if id(matrix) not in placed:
            place = writer.matrix(name, matrix)
            placed[id(matrix)] = name
            if matrix.kind.half:
                casts[name] = f"{name}_scales_float"
                nodes.append(
                    onnx.helper.make_node(
                        "Cast", [f"{name}_scales"], [casts[name]], name=f"/{name}/Cast", to=_FLOAT
                    )
                )
            # Gather reads rows, MatMul groups: two views of the same bytes.
            groups = matrix.cols // matrix.kind.group
            writer.external(
                f"{name}_rows", _UINT8, (matrix.rows, groups * matrix.kind.code_bytes), place.codes
            )
        made = placed[id(matrix)]
        used.add(f"{made}_rows" if flat else f"{made}_codes")
        names = [f"{made}_rows" if flat else f"{made}_codes", casts.get(made, f"{made}_scales")]
        return names + ([f"{made}_zeros"] if matrix.kind.zero else [])

    used: set[str] = set()
    for node in model.graph.node:
        if node.op_type == "Transpose" and node.output[0] == embedded.input[0]:
            continue  # of the head, which the embedding shares
        if node is embedded:
            output, ids = node.output[0], node.input[1]
            gone.add(node.input[0])
            if isinstance(embedding, Matrix):
                names = inputs("model.embed_tokens", embedding, True)
                nodes.append(
                    onnx.helper.make_node(
                        "GatherBlockQuantized",
                        [names[0], ids, *names[1:]],
                        [output],
                        name=node.name,
                        domain=DOMAIN,
                        bits=embedding.kind.bits,
                        block_size=embedding.kind.group,
                        gather_axis=0,
                        quantize_axis=1,
                    )
                )
            else:
                writer.floats(EMBEDDING, embedding)
                nodes.append(
                    onnx.helper.make_node("Gather", [EMBEDDING, ids], [output], name=node.name)
                )
            continue
        weight = initializers.get(node.input[1]) if node.op_type == "MatMul" else None
        names = sources(weight.name, tensors) if weight is not None else []
        matrix = choose(names) if names else None
        if matrix is None or weight is None:
            nodes.append(node)
            continue
        _check(graph, weight, matrix, writer)
        gone.add(weight.name)
        name = weight.name.removesuffix(".MatMul.weight")
        nodes.append(
            onnx.helper.make_node(
                "MatMulNBits",
                [node.input[0], *inputs(name, matrix, False)],
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
    still = {name for node in nodes for name in node.input}
    for old in model.graph.initializer:
        if old.name not in gone or (old.name in still and old.name != EMBEDDING):
            writer.carry(old)
    views = ("_rows", "_codes")
    kept = [i for i in writer.initializers if not i.name.endswith(views) or i.name in used]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    for key, value in properties.items():
        model.metadata_props.add(key=key, value=value)
    return Prepared(
        graph=model.SerializeToString(),
        data=writer.tensors,
        offsets=writer.offsets,
        data_bytes=writer.end,
        spread=writer.spread,
        places=writer.places,
    )


def _check(folder: Path, weight: Any, matrix: Matrix, writer: _Writer) -> None:
    """GateError when the node does not hold the matrix we put in its place.

    Shape, and the first row of every part.
    """
    if list(weight.dims) != [matrix.cols, matrix.rows]:
        raise GateError(
            f"{weight.name} has shape {list(weight.dims)}",
            expected=f"[{matrix.cols}, {matrix.rows}]",
        )
    if weight.data_type != _FLOAT:
        raise UnsupportedError(f"{weight.name} is not float32", expected="a graph in float32")
    held = _bytes(folder, weight, writer.maps).view(np.float32).reshape(matrix.cols, matrix.rows)
    row = 0
    for part in matrix.parts:
        wanted = np.nan_to_num(part.tensor.rows(0, 1)[0])
        if not np.allclose(np.nan_to_num(held[:, row]), wanted, rtol=1e-6, atol=1e-12):
            raise GateError(
                f"{weight.name} does not hold {part.name}", todo="convert again with onnx:fp32"
            )
        row += num_rows(part.tensor)
