"""Quantize a float graph to int8 in a process of its own.

`python -m kanna.formats.onnx.int8_worker JSON`.

onnxruntime's quantizer holds a whole model, prints and leaves files behind: none of that reaches
the caller.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kanna._util.processes import end_with_parent
from kanna.formats.onnx import external_data, qdq, ranges, smooth
from kanna.formats.onnx.float_graph import PRODUCTS, FloatGraph
from kanna.model import F32

# Rows of activations that smoothing is judged on.
_ROWS = 96
_NORMS = {
    "SimplifiedLayerNormalization": (1,),
    "SkipSimplifiedLayerNormalization": (2,),
    "LayerNormalization": (1, 2),
    "SkipLayerNormalization": (2, 3),
    "RMSNormalization": (1,),
}
"""Norms, and which of their inputs are gains and offsets."""


def groups(graph: FloatGraph, products: Sequence[Any]) -> list[tuple[str, list[Any], list[str]]]:
    """What may be folded: an activation, the products that read it, and constants to divide.

    Only `products` read the activation. The constants are, behind a norm, its gain (and offset);
    behind a gated product, the columns of the matrix that makes the ungated half.
    """
    chosen = {id(n) for n in products}
    foldable: list[tuple[str, list[Any], list[str]]] = []
    for node in graph.model.graph.node:
        out = node.output[0]
        readers = graph.readers.get(out, [])
        if not readers or any(
            id(r) not in chosen
            or r.op_type != "MatMul"
            or r.input[0] != out
            or len(graph.readers[r.input[1]]) != 1
            for r in readers
        ):
            continue
        if node.op_type in _NORMS:
            constants = [
                node.input[i] for i in _NORMS[node.op_type] if i < len(node.input) and node.input[i]
            ]
        elif node.op_type == "Mul":
            maker = graph.writer.get(node.input[1])
            if maker is None or maker.op_type != "MatMul" or len(graph.readers[node.input[1]]) != 1:
                continue
            constants = [maker.input[1]]
        else:
            continue
        if all(c in graph.values and len(graph.readers[c]) == 1 for c in constants):
            foldable.append((out, readers, constants))
    return foldable


def fold(
    graph: FloatGraph, products: Sequence[Any], feeds: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Smooth every group that gains by it; figures of how many did and what it gave."""
    all_groups = groups(graph, products)
    if not all_groups:
        return {"groups": 0, "smoothed": 0}
    # One group at a time would be one run each: the rows of all of them are small beside the
    # weights.
    samples: dict[str, list[F32]] = {out: [] for out, _, _ in all_groups}
    for batch in graph.run(feeds, list(samples)):
        for name, x in batch.items():
            samples[name].append(x[:: max(1, len(x) * len(feeds) // _ROWS)])
    # Gated products first: the matrix they divide is read by a norm's group, whose own product it
    # changes.
    smoothed, gains = 0, list[float]()
    for out, readers, constants in sorted(
        all_groups, key=lambda g: graph.writer[g[0]].op_type != "Mul"
    ):
        names = [r.input[1] for r in readers]
        divisor, before, after = smooth.best(
            np.concatenate(samples[out]), [graph.get(n) for n in names]
        )
        if divisor is None:
            continue
        smoothed += 1
        gains.append(after / before)
        for name in constants:
            graph.set(name, graph.get(name) / divisor)
        for name in names:
            graph.set(name, graph.get(name) * divisor[:, None])
    return {
        "groups": len(all_groups),
        "smoothed": smoothed,
        "error": float(np.mean(gains)) if gains else 1.0,
    }


def quantize(
    *,
    source: str,
    out: str,
    calibrator: str,
    feeds: str,
    cache: Sequence[int],
    patterns: Mapping[str, Sequence[str]],
    smoothing: bool,
    wide: int | Mapping[str, int],
) -> dict[str, Any]:
    """Quantize `source`/model.onnx into `out`/model.onnx.

    Args:
        source: Folder of the float graph.
        out: Folder of the quantized one.
        calibrator: One of `ranges.CALIBRATORS` for static QDQ, or "" for dynamic int8.
        feeds: A .npy of ids, int64 [windows, tokens]; "": codes stand for nothing.
        cache: Heads and width of a decoder's cache, or [].
        patterns: Of the names of products: `excluded` ones stay float, and of the others those
            that are `included`, all where there is none.
        smoothing: Fold outliers of activations into norms where it lowers the error.
        wide: Bits of a weight where activations have 16 bits, for all matrices, or by initializer,
            where the others stay as they are; 0: activations have 8 bits.
    """
    graph = FloatGraph(Path(source).absolute() / "model.onnx")
    products = graph.products(**patterns)
    batches = [_feed(graph, ids[None], cache) for ids in (np.load(feeds) if feeds else ())]
    figures = fold(graph, products, batches) if smoothing else {"groups": 0, "smoothed": 0}
    if figures["smoothed"]:
        folded = graph.path.with_name("smoothed.onnx")
        external_data.save(graph.model, folded)
        graph = FloatGraph(folded)
        products = graph.products(**patterns)
    names = [n.name for n in products]
    if wide != 0:
        bits = qdq.widths(products, wide) if isinstance(wide, int) else wide
        model = qdq.quantize(graph, batches, bits)
    elif calibrator:
        inputs = [n.input[0] for n in products]
        model = _static(graph, names, ranges.ranges(graph.run(batches, inputs), calibrator))
    else:
        model = _dynamic(graph, names, Path(out).absolute())
    share_embedding(model)
    quantize_embedding(model)
    _drop_unused(model)
    for stale in Path(out).glob("dynamic.onnx*"):
        stale.unlink()
    external_data.save(model, Path(out) / "model.onnx")
    return figures | {"products": len(names)}


def _feed(graph: FloatGraph, ids: Any, cache: Sequence[int]) -> dict[str, Any]:
    """Inputs of one window, ids int64 [1, tokens], with an empty cache."""
    feed: dict[str, Any] = {}
    for given in graph.model.graph.input:
        if given.name == "input_ids":
            feed[given.name] = ids
        elif given.name == "attention_mask":
            feed[given.name] = np.ones_like(ids)
        elif given.name == "token_type_ids":
            feed[given.name] = np.zeros_like(ids)
        elif given.name == "position_ids":
            feed[given.name] = np.arange(ids.shape[1], dtype=np.int64)[None]
        elif given.name.startswith("past"):
            feed[given.name] = np.zeros((1, cache[0], 0, cache[1]), np.float32)
    return feed


def _dynamic(graph: FloatGraph, names: list[str], out: Path) -> Any:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with external_data.standing_in(out):
        quantize_dynamic(
            graph.path,
            out / "dynamic.onnx",
            op_types_to_quantize=list(PRODUCTS),
            nodes_to_quantize=names,
            per_channel=True,
            weight_type=QuantType.QInt8,
            use_external_data_format=True,
            extra_options={"MatMulConstBOnly": True, "WeightSymmetric": True},
        )
    return onnx.load(str(out / "dynamic.onnx"))


def _static(graph: FloatGraph, names: list[str], limits: Mapping[str, tuple[float, float]]) -> Any:
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    tensors: dict[str, Any] = {
        name: TensorData(lowest=np.float32(low), highest=np.float32(high))
        for name, (low, high) in limits.items()
    }
    quantizer = QDQQuantizer(
        graph.model,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, tensors),
        nodes_to_quantize=names,
        nodes_to_exclude=[],
        op_types_to_quantize=list(PRODUCTS),
        # The product itself stays float32: a second rounding would cost and give nothing.
        extra_options={
            "WeightSymmetric": True,
            "ActivationSymmetric": False,
            "OpTypesToExcludeOutputQuantization": list(PRODUCTS),
            "QuantizeBias": False,
        },
    )
    quantizer.quantize_model()
    return quantizer.model.model


def share_embedding(model: Any) -> None:
    """Let a tied embedding read the int8 columns of the head, so that no float matrix stays.

    The builder transposes the head's matrix, [hidden, vocabulary], and gathers rows of that:
    gathered are columns of the int8 matrix and their scales instead, multiplied and turned.
    """
    from onnx import TensorProto, helper

    nodes, values = model.graph.node, {t.name: t for t in model.graph.initializer}
    for turn in list(nodes):
        weight = f"{turn.input[0]}_quantized" if turn.op_type == "Transpose" and turn.input else ""
        scale = f"{turn.input[0]}_scale" if weight else ""
        if weight not in values or scale not in values:
            continue
        gathers = [n for n in nodes if turn.output[0] in n.input]
        if (
            len(gathers) != 1
            or gathers[0].op_type != "Gather"
            or list(values[scale].dims) != [values[weight].dims[1]]
        ):
            continue
        gather, at = gathers[0], turn.name or "embedding"
        made = [
            helper.make_node(
                "Gather", [weight, gather.input[1]], [f"{at}_columns"], f"{at}_columns", axis=1
            ),
            helper.make_node(
                "Cast", [f"{at}_columns"], [f"{at}_float"], f"{at}_float", to=TensorProto.FLOAT
            ),
            helper.make_node(
                "Gather", [scale, gather.input[1]], [f"{at}_scales"], f"{at}_scales", axis=0
            ),
            # [hidden, batch, tokens] × [batch, tokens]
            helper.make_node(
                "Mul", [f"{at}_float", f"{at}_scales"], [f"{at}_scaled"], f"{at}_scaled"
            ),
            helper.make_node(
                "Transpose", [f"{at}_scaled"], [gather.output[0]], f"{at}_rows", perm=[1, 2, 0]
            ),
        ]
        first = next(i for i, n in enumerate(nodes) if n.name == gather.name)
        nodes.remove(gather)
        for i, node in enumerate(made):
            nodes.insert(first + i, node)
        nodes.remove(turn)


def quantize_embedding(model: Any) -> None:
    """Store embeddings that nothing else reads as int8 with a scale per row."""
    from onnx import TensorProto, helper, numpy_helper

    nodes, values = model.graph.node, {t.name: t for t in model.graph.initializer}
    for gather in [n for n in nodes if n.op_type == "Gather"]:
        table = values.get(gather.input[0])
        axis = next((a.i for a in gather.attribute if a.name == "axis"), 0)
        if table is None or table.data_type != TensorProto.FLOAT or len(table.dims) != 2 or axis:
            continue
        if sum(table.name in n.input for n in nodes) != 1 or table.dims[0] < _ROWS:
            continue
        rows = numpy_helper.to_array(table)
        scale = np.maximum(np.abs(rows).max(axis=1, keepdims=True), 1e-12).astype(np.float32) / 127
        codes = np.round(rows / scale).astype(np.int8)
        name, at = table.name, list(nodes).index(gather)
        table.CopyFrom(numpy_helper.from_array(codes, f"{name}_quantized"))
        model.graph.initializer.append(numpy_helper.from_array(scale, f"{name}_scale"))
        nodes.remove(gather)
        made = [
            helper.make_node(
                "Gather", [f"{name}_quantized", gather.input[1]], [f"{name}_codes"], f"{name}_codes"
            ),
            helper.make_node(
                "Cast", [f"{name}_codes"], [f"{name}_float"], f"{name}_float", to=TensorProto.FLOAT
            ),
            helper.make_node(
                "Gather", [f"{name}_scale", gather.input[1]], [f"{name}_scales"], f"{name}_scales"
            ),
            helper.make_node(
                "Mul", [f"{name}_float", f"{name}_scales"], [gather.output[0]], f"{name}_rows"
            ),
        ]
        for i, node in enumerate(made):
            nodes.insert(at + i, node)


def _drop_unused(model: Any) -> None:
    """Remove constants that nothing reads."""
    used = {name for node in model.graph.node for name in node.input} | {
        o.name for o in model.graph.output
    }
    kept = [t for t in model.graph.initializer if t.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


if __name__ == "__main__":
    end_with_parent()
    answer = quantize(**json.loads(sys.argv[1]))
    print("\n" + json.dumps(answer))
