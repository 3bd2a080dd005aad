"""Low-rank changes as inputs of a decoder's graph, and the file that fills them.

Each input has a default of rank 0, so that the graph computes the base where no adapter is active,
and one graph takes adapters of any rank. onnxruntime calls such inputs overridable initializers,
and onnxruntime-genai fills them from an `.onnx_adapter` file (`Adapters`, `set_active_adapter`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kanna.errors import GateError
from kanna.formats.onnx import build, quantize
from kanna.formats.onnx.graph_data import FLOAT
from kanna.model import F32, Tensor

_WEIGHT = ".weight"


def input_names(module: str) -> tuple[str, str]:
    """Names of the two inputs of a module: [columns, rank] and [rank, rows], float32.

    Args:
        module: Its name in Hugging Face, as `model.layers.0.self_attn.q_proj`.
    """
    return f"{module}.lora_A.weight", f"{module}.lora_B.weight"


def add(
    folder: Path, modules: Sequence[str], tensors: Mapping[str, Tensor], command: str
) -> list[str]:
    """Give the graph of a folder the inputs of some modules.

    Where one node multiplies by several matrices, all of them get inputs.

    Args:
        folder: Of onnxruntime-genai; its graph is written again, its data stay.
        modules: Their names in Hugging Face.
        tensors: The model's, by Hugging Face name.
        command: What makes the folder again.

    Returns:
        Every module that has inputs now.

    Raises:
        GateError: The graph has no product of one of them.
    """
    import onnx

    path = folder / build.GRAPH
    model: Any = onnx.load(str(path), load_external_data=False)
    wanted, done = {f"{module}{_WEIGHT}" for module in modules}, list[str]()
    nodes = list(model.graph.node)
    del model.graph.node[:]
    for node in nodes:
        names = quantize.sources(node.name[1:].replace("/", ".") + _WEIGHT, tensors)
        if not wanted & set(names) or "MatMul" not in node.op_type:
            model.graph.node.append(node)
            continue
        product, node.output[0] = node.output[0], f"{node.name}/base"
        model.graph.node.append(node)
        model.graph.node.extend(_change(node, product, names))
        for name in names:
            _declare(model.graph, name.removesuffix(_WEIGHT), tensors[name])
            done.append(name)
    if absent := wanted - set(done):
        raise GateError(
            f"the graph has no product by {sorted(absent)[0]}",
            todo="merge the adapter: kanna merge SRC ADAPTER -o OUT --format onnx",
        )
    for entry in model.metadata_props:
        if entry.key == "kanna.command":
            entry.value = command
    path.write_bytes(model.SerializeToString())
    return [name.removesuffix(_WEIGHT) for name in done]


def _change(node: Any, product: str, names: Sequence[str]) -> list[Any]:
    """The nodes that add what adapters change to the output of `node`."""
    from onnx import helper

    nodes: list[Any] = []
    parts: list[str] = []
    for name in names:
        first, second = input_names(name.removesuffix(_WEIGHT))
        stem = f"{node.name}/lora/{name.removesuffix(_WEIGHT).rpartition('.')[2]}"
        for at, (left, right) in (("A", (node.input[0], first)), ("B", (f"{stem}/A", second))):
            nodes.append(
                helper.make_node("MatMul", [left, right], [f"{stem}/{at}"], name=f"{stem}/{at}")
            )
        parts.append(f"{stem}/B")
    if len(parts) > 1:
        joined = f"{node.name}/lora/Concat"
        nodes.append(helper.make_node("Concat", parts, [joined], name=joined, axis=-1))
        parts = [joined]
    name = f"{node.name}/lora/Add"
    return [*nodes, helper.make_node("Add", [node.output[0], *parts], [product], name=name)]


def _declare(graph: Any, module: str, matrix: Tensor) -> None:
    """Inputs of a module, whose rank is 0 where nothing fills them."""
    from onnx import helper

    rows, cols = matrix.shape
    rank = f"{module}.rank"
    first, second = input_names(module)
    for name, shape, empty in ((first, [cols, rank], [cols, 0]), (second, [rank, rows], [0, rows])):
        graph.input.append(helper.make_tensor_value_info(name, FLOAT, shape))
        graph.initializer.append(helper.make_tensor(name, FLOAT, empty, []))


def write(path: Path, values: Mapping[str, F32]) -> None:
    """Write an adapter in onnxruntime's format.

    Args:
        path: Ends as `files.ADAPTER` does.
        values: Of each input, by its name.
    """
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    library: Any = onnxruntime
    file = library.AdapterFormat()
    file.set_adapter_version(1)
    file.set_model_version(1)
    file.set_parameters({n: library.OrtValue.ortvalue_from_numpy(v) for n, v in values.items()})
    file.export_adapter(str(path))
