"""Costs of encodings in onnxruntime: graphs of one node, with copies of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from kanna import encodings
from kanna.benchmark.costs.products import product_costs
from kanna.benchmark.skeleton import one_of_many
from kanna.encodings.grouped.nbits import NBits, parse
from kanna.formats.onnx import packing
from kanna.formats.onnx.quantize import DOMAIN
from kanna.model import Model
from kanna.plan import onnx as presets
from kanna.runtimes.onnx import library

_OPSETS = {"": 21, DOMAIN: 1}


def listed(_: Model) -> Sequence[str]:
    """Those that `optimize` chooses from."""
    return presets.CANDIDATES


def multiplier(
    encoding: str, rows: int, cols: int, *, copies: int, threads: int
) -> Callable[[int], object]:
    """Products as nodes of a graph, each with a matrix of its own; see `Multiplier`."""
    from onnx import TensorProto, helper

    nodes: list[Any] = []
    constants: list[Any] = []
    kind = parse(encoding)
    for at in range(copies):
        if kind is None:
            one = _floats(encoding, rows, cols, at)
            constants.append(helper.make_tensor(f"w{at}", 1, one.shape, one.tobytes(), raw=True))
            nodes.append(helper.make_node("MatMul", ["x", f"w{at}"], [f"y{at}"]))
        else:
            named = _packed(kind, encoding, rows, cols, at)
            constants += named
            nodes.append(_node(kind, rows, cols, at, [tensor.name for tensor in named]))
    outputs = [
        helper.make_tensor_value_info(f"y{at}", TensorProto.FLOAT, [1, "t", rows])
        for at in range(copies)
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, "t", cols])
    graph = helper.make_graph(nodes, "products", [x], outputs, initializer=constants)
    opsets = [helper.make_opsetid(domain, version) for domain, version in _OPSETS.items()]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = _session(model.SerializeToString(), threads)

    def run(tokens: int) -> object:
        inputs = np.random.default_rng(tokens).standard_normal((1, tokens, cols), np.float32)
        return session.run(None, {"x": inputs})

    return run


def _session(graph: bytes, threads: int) -> Any:
    lib = library()
    options = lib.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    return lib.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _floats(encoding: str, rows: int, cols: int, at: int) -> Any:
    """A matrix as MatMul has it, f32 [cols, rows]."""
    few = encodings.get(encoding).decode(one_of_many(encoding, cols, at), cols)
    return np.ascontiguousarray(few[np.arange(rows) % len(few)].T)


def _packed(kind: NBits, encoding: str, rows: int, cols: int, at: int) -> list[Any]:
    """Codes, scales and zeros of a matrix; scales in float32, which a Cast makes of them."""
    from onnx import helper

    few = one_of_many(encoding, cols, at)
    planes = packing.split(kind, few[np.arange(rows) % len(few)])
    groups, number = cols // kind.group, np.float16 if kind.half else np.float32
    scales = planes.scales.reshape(-1).view(number).astype(np.float32)
    codes = (rows, groups, kind.code_bytes)
    made = [
        helper.make_tensor(f"w{at}_codes", 2, codes, planes.codes.tobytes(), raw=True),
        helper.make_tensor(f"w{at}_scales", 1, (rows, groups), scales.tobytes(), raw=True),
    ]
    if planes.zeros is not None:
        zeros = (rows, kind.zero_bytes(groups))
        made.append(helper.make_tensor(f"w{at}_zeros", 2, zeros, planes.zeros.tobytes(), raw=True))
    return made


def _node(kind: NBits, rows: int, cols: int, at: int, inputs: Sequence[str]) -> Any:
    from onnx import helper

    return helper.make_node(
        "MatMulNBits",
        ["x", *inputs],
        [f"y{at}"],
        domain=DOMAIN,
        K=cols,
        N=rows,
        bits=kind.bits,
        block_size=kind.group,
        accuracy_level=presets.INT8,
    )


COSTS = product_costs("onnx", multiplier, listed)
