"""What onnxruntime computes of the graph in a folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from kanna.conversion.base import WrittenArtefact
from kanna.formats.onnx import files
from kanna.formats.onnx.build import GENAI, GRAPH
from kanna.verification.written_config.computation import Computation, Layer, RotaryEmbedding

_NORMS = ("SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization")
_HALF = 1e-3
"""Radians, of angles whose cosine and sine are kept in 16 bits."""


def read(written: WrittenArtefact) -> Computation | str:
    """The computation of the graph; why not, where its layers are not GroupQueryAttention nodes."""
    assert written.folder is not None
    graph: Any = files.load(written.folder / GRAPH).graph
    genai = json.loads((written.folder / GENAI).read_text(encoding="utf-8"))["model"]
    nodes = [n for n in graph.node if n.op_type == "GroupQueryAttention"]
    tables = dict(_tables(graph, written.folder))
    if len(nodes) != int(genai["decoder"]["num_hidden_layers"]) or not tables:
        return "the graph has no GroupQueryAttention with tables of angles in every layer"
    epsilons = {float(_attributes(n)["epsilon"]) for n in graph.node if n.op_type in _NORMS}
    names = list(dict.fromkeys(_table_name(n) for n in nodes))
    if any(name not in tables for name in names):
        return "the graph computes its angles in another way"
    epsilon = max(epsilons, default=None)
    return Computation(
        name="onnxruntime",
        layers=[_layer(n, genai, names, epsilon) for n in nodes],
        ropes=[_rope(tables[name]) for name in names],
        vocabulary=int(genai["vocab_size"]),
        context=int(genai["context_length"]),
        precision=_HALF if any(t[0][0].dtype == np.float16 for t in tables.values()) else 1e-7,
    )


def _attributes(node: Any) -> dict[str, Any]:
    import onnx

    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def _table_name(node: Any) -> str:
    """The table of cosines that a node reads; the table of sines is named alike."""
    return next((i for i in node.input if i.startswith("cos_cache")), "")


def _layer(node: Any, genai: dict[str, Any], names: list[str], epsilon: float | None) -> Layer:
    attributes = _attributes(node)
    return Layer(
        heads=int(attributes["num_heads"]),
        kv_heads=int(attributes["kv_num_heads"]),
        head_size=int(genai["decoder"]["head_size"]),
        rope=names.index(_table_name(node)),
        scale=float(attributes["scale"]) if attributes.get("scale") else None,
        window=max(0, int(attributes.get("local_window_size", -1))),
        softcap=float(attributes.get("softcap", 0.0)),
        epsilon=epsilon,
    )


Pair = tuple[Any, Any]


def _tables(graph: Any, folder: Path) -> Iterator[tuple[str, list[Pair]]]:
    """Cosines and sines by the name that nodes read: one pair, or that of short and of long texts.

    An If node gives one of two: the then branch of long texts.
    """
    own = _arrays(graph, folder)
    for name in own:
        if name.startswith("cos_cache"):
            yield name, [(own[name], own[name.replace("cos", "sin", 1)])]
    for node in graph.node:
        if node.op_type != "If" or "cos_cache" not in node.output:
            continue
        branches = _attributes(node)
        pairs: list[Pair] = []
        for kind in ("else_branch", "then_branch"):
            arrays = _arrays(branches[kind], folder)
            cosine = next((v for n, v in arrays.items() if "cos" in n), None)
            sine = next((v for n, v in arrays.items() if "sin" in n), None)
            if cosine is not None and sine is not None:
                pairs.append((cosine, sine))
        if len(pairs) == len(("else", "then")):
            yield "cos_cache", pairs


def _arrays(graph: Any, folder: Path) -> dict[str, Any]:
    """Constants of a graph that are tables of angles."""
    from onnx import numpy_helper

    tensors = [(t.name, t) for t in graph.initializer]
    for node in graph.node:
        if node.op_type == "Constant":
            tensors.append((node.output[0], _attributes(node).get("value")))
    return {
        name: numpy_helper.to_array(tensor, str(folder))
        for name, tensor in tensors
        if tensor is not None and ("cos" in name or "sin" in name)
    }


def _rope(pairs: list[Pair]) -> RotaryEmbedding:
    (short, factor), (long, long_factor) = (_angles(*p) for p in (pairs[0], pairs[-1]))
    return RotaryEmbedding(
        frequencies=short, factor=factor, long_frequencies=long, long_factor=long_factor
    )


def _angles(cosine: Any, sine: Any) -> tuple[list[float], float]:
    """Frequencies and factor, from the row of position 1."""
    c, s = (np.asarray(table[1], np.float64) for table in (cosine, sine))
    return np.arctan2(s, c).tolist(), float(np.hypot(s, c).mean())


READER = read
