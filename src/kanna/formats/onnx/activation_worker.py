"""Put codes between all nodes of a folder of fixed shapes, in a process of its own.

`python -m kanna.formats.onnx.activation_worker JSON`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from kanna._util.processes import end_with_parent
from kanna.formats.onnx import activation_codes
from kanna.formats.onnx.activation_codes import SeenValues
from kanna.formats.onnx.static_shapes import DECODE, PREFILL, unit_norms
from kanna.formats.onnx.static_shapes.positions import PAST, TOTAL


def encode(folder: str, feeds: str) -> None:
    """Quantize what flows between the nodes of a folder's two graphs.

    Args:
        folder: A complete folder of fixed shapes, its products in codes.
        feeds: A .npy of ids, int64 [windows, tokens]; "": codes stand for nothing.
    """
    import onnx
    from onnx import numpy_helper

    place = Path(folder)

    def read(tensor: Any) -> Any:
        return numpy_helper.to_array(tensor, base_dir=folder)

    graphs = {n: onnx.load(str(place / n), load_external_data=False) for n in (PREFILL, DECODE)}
    for model in graphs.values():
        unit_norms.shorten(model, read)
    prefill = graphs[PREFILL]
    seen = {name: SeenValues() for name in activation_codes.watched(prefill).values()}
    for batch in _values(prefill, place, np.load(feeds)) if feeds else ():
        for name, values in batch:
            seen[name].add(values)
    if not feeds:
        seen = dict.fromkeys(seen, SeenValues(low=-1.0, high=1.0, faintest=0.0))
    for name, model in graphs.items():
        activation_codes.encode(model, seen, read)
        (place / name).write_bytes(model.SerializeToString())


def _values(model: Any, folder: Path, windows: Any) -> Iterator[list[tuple[str, Any]]]:
    """What flows through the graph that reads a chunk, of every chunk of text that is full.

    Args:
        model: onnx.ModelProto.
        folder: Where its data is.
        windows: int64 [windows, tokens].
    """
    import onnx
    import onnxruntime

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    names = activation_codes.watched(model)
    own = [o.name for o in copy.graph.output]
    more = [n for n in names if n not in own]
    copy.graph.output.extend(onnx.helper.make_empty_tensor_value_info(n) for n in more)
    path = folder / "watched.onnx"
    path.write_bytes(copy.SerializeToString())
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    try:
        session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    finally:
        path.unlink()
    shapes = {
        i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in model.graph.input
    }
    first = model.graph.input[0].name
    presents = {cache: present for present, cache in names.items() if cache != present}
    chunk, room = shapes[first][1], shapes[next(iter(presents))][2]
    for ids in windows:
        caches: dict[str, Any] = {c: np.zeros(shapes[c], np.float32) for c in presents}
        for start in range(0, min(len(ids), room) - chunk + 1, chunk):
            feed = {
                first: ids[None, start : start + chunk].astype(np.int32),
                PAST: np.array([[start + chunk - 1]], np.int32),
                TOTAL: np.array([room], np.int32),
            }
            wanted = list(dict.fromkeys([*names, *presents.values()]))
            used = {i.name for i in session.get_inputs()}
            given = {k: v for k, v in (feed | caches).items() if k in used}
            values = dict(zip(wanted, session.run(wanted, given), strict=True))
            caches = {cache: values[present] for cache, present in presents.items()}
            yield [(name, values[tensor]) for tensor, name in names.items()]


if __name__ == "__main__":
    end_with_parent()
    encode(**json.loads(sys.argv[1]))
