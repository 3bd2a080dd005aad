"""QDQ graphs with activations of 16 bits: their types, and how close they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import tiny_models
from helpers.onnx_logits import logits

import kanna
from kanna.encodings.grouped.channel import RowCodes
from kanna.evaluation.divergence import compare
from kanna.formats.onnx import files, qdq, ranges
from kanna.formats.onnx.float_graph import FloatGraph
from kanna.methods import channel_codes
from kanna.methods.hessian import SecondMoment
from kanna.model import F32

numpy_helper = pytest.importorskip("onnx.numpy_helper")
pytest.importorskip("onnxruntime_genai")
IDS = np.random.default_rng(0).integers(3, 500, (1, 96))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder per preset; the model's head is tied to its embedding."""
    folder = tmp_path_factory.mktemp("qdq")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tiny_models.SMALL, "intermediate_size", 640)
        tiny_models.make("qwen3", folder / "source")
    for preset in ("fp32", "w8a16", "w4a16"):
        kanna.convert(folder / "source", folder / preset, preset=f"onnx:{preset}", threads=1)
    return {path.name: path for path in folder.iterdir()}


def divergence(folder: Path, exact: Path) -> float:
    base = logits(exact, IDS)
    _, [scores] = compare(base, [logits(folder, IDS)], np.zeros(len(base), np.int64))
    return float(scores.kl.mean())


def test_types_are_those_of_npus(made: dict[str, Path]) -> None:
    from onnx import TensorProto

    for preset, wanted in (("w8a16", TensorProto.INT8), ("w4a16", TensorProto.INT4)):
        graph = files.load(made[preset] / "model.onnx").graph
        held = {t.name: t for t in graph.initializer}
        weights = [n for n in graph.node if n.op_type == "DequantizeLinear" and n.input[0] in held]
        kinds = {n.input[0]: held[n.input[0]].data_type for n in weights}
        assert set(kinds.values()) <= {wanted, TensorProto.INT8} and wanted in kinds.values()
        assert all(held[n.input[1]].dims == [held[n.input[0]].dims[1]] for n in weights)
        steps = [n for n in graph.node if n.op_type == "QuantizeLinear"]
        assert {held[n.input[2]].data_type for n in steps} == {TensorProto.UINT16}
        wide = [t for t in held.values() if len(t.dims) > 1 and "_cache" not in t.name]
        assert all(t.data_type != TensorProto.FLOAT for t in wide if min(t.dims) > 1)


def test_codes_of_four_bits_are_packed_as_onnxruntime_reads_them(tmp_path: Path) -> None:
    import onnxruntime
    from onnx import TensorProto, helper

    codes = np.random.default_rng(1).integers(-7, 8, (5, 3)).astype(np.int8)
    held = [
        helper.make_tensor("codes", TensorProto.INT4, codes.shape, qdq.packed(codes), raw=True),
        helper.make_tensor("scale", TensorProto.FLOAT, [3], [1.0, 2.0, 4.0]),
    ]
    node = helper.make_node("DequantizeLinear", ["codes", "scale"], ["out"], axis=1)
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, [5, 3])
    model = helper.make_model(
        helper.make_graph([node], "g", [], [out], held),
        opset_imports=[helper.make_opsetid("", 21)],
        ir_version=10,
    )
    session = onnxruntime.InferenceSession(model.SerializeToString())
    got: Any = session.run(None, {})[0]
    assert np.array_equal(got, codes * np.array([1, 2, 4], np.float32))


@pytest.mark.parametrize(("bits", "share"), [(8, 0.6), (4, 0.5)])
def test_codes_give_closer_products_than_nearest_ones(bits: int, share: float) -> None:
    """On inputs that hang together, other ones than the second moment is of."""
    rng = np.random.default_rng(2)
    mixing = rng.standard_normal((96, 96)) * rng.random(96) ** 4
    fitted, held = (rng.standard_normal((2048, 96)) @ mixing for _ in range(2))
    weight = rng.standard_normal((96, 40)).astype(np.float32)
    second = (fitted.T @ fitted / len(fitted)).astype(np.float32)
    blocks: list[F32] = [second]
    moment = SecondMoment(lambda: blocks, shrink=qdq.SHRINK)
    chosen = channel_codes.choose(weight, second.diagonal(), moment, RowCodes(bits=bits))
    most = 2 ** (bits - 1) - 1
    assert np.abs(chosen.codes.astype(int)).max() <= most

    def error(rounded: np.ndarray) -> float:
        return float(np.square(held @ (rounded - weight)).sum())

    step = np.abs(weight).max(axis=0) / most
    assert error(chosen.codes * chosen.scales) < share * error(np.round(weight / step) * step)


def test_ranges_have_room_for_other_text(made: dict[str, Path]) -> None:
    """Text whose activations are larger than those of the calibration is not cut off."""
    graph = files.load(made["w8a16"] / "model.onnx").graph
    held = {t.name: t for t in graph.initializer}
    source = FloatGraph(made["fp32"] / "model.onnx")
    names = [n.input[0] for n in source.products(["lm_head"], ())]
    other = np.random.default_rng(9).integers(3, 500, (1, 200))
    batches = source.run([calibration(source, made["fp32"]) | {"input_ids": other}], names)
    for name, (low, high) in ranges.ranges(batches, "minmax").items():
        scale, zero = (
            numpy_helper.to_array(held[f"{name}_{part}"]).astype(float)
            for part in ("scale", "zero_point")
        )
        assert -zero * scale < low and high < (65535 - zero) * scale


def calibration(graph: FloatGraph, folder: Path) -> dict[str, Any]:
    """One text, as the inputs of a graph."""
    decoder = json.loads((folder / "genai_config.json").read_text())["model"]["decoder"]
    ids = np.random.default_rng(3).integers(3, 500, (1, 200))
    empty = np.zeros((1, decoder["num_key_value_heads"], 0, decoder["head_size"]), np.float32)
    pasts = [i.name for i in graph.model.graph.input if i.name.startswith("past")]
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)} | dict.fromkeys(pasts, empty)


def peer(graph: FloatGraph, products: list[Any], feed: dict[str, Any]) -> Any:
    """onnxruntime's static quantizer: int4 per channel, uint16, ranges of the same text."""
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    names = sorted({n.input[0] for n in products} | {n.output[0] for n in products})
    limits: dict[str, Any] = {
        name: TensorData(lowest=np.float32(low), highest=np.float32(high))
        for name, (low, high) in ranges.ranges(graph.run([feed], names), "minmax").items()
    }
    quantizer = QDQQuantizer(
        graph.model,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt4,
        activation_qType=QuantType.QUInt16,
        tensors_range=TensorsData(CalibrationMethod.MinMax, limits),
        nodes_to_quantize=[n.name for n in products],
        nodes_to_exclude=[],
        op_types_to_quantize=["MatMul"],
        extra_options={"WeightSymmetric": True, "ActivationSymmetric": False},
    )
    quantizer.quantize_model()
    return quantizer.model.model


def test_logits_are_closer_than_those_of_the_static_quantizer(
    made: dict[str, Path], tmp_path: Path
) -> None:
    """The same products, types and text; the head, which theirs cannot give 8 bits, left out."""
    import onnx

    exact = made["fp32"]
    assert divergence(made["w8a16"], exact) < 1e-3
    kl: dict[str, float] = {}
    for name in ("ours", "theirs"):
        graph = FloatGraph(exact / "model.onnx")
        products, feed = graph.products(["lm_head"], ()), calibration(graph, exact)
        model = (
            qdq.quantize(graph, [feed], qdq.widths(products, 4))
            if name == "ours"
            else peer(graph, products, feed)
        )
        folder = tmp_path / name
        folder.mkdir()
        (folder / "genai_config.json").write_text((exact / "genai_config.json").read_text())
        onnx.save(model, str(folder / "model.onnx"))
        kl[name] = divergence(folder, exact)
    assert kl["ours"] < kl["theirs"], kl


def test_the_gate_says_how_many_bits_activations_have(made: dict[str, Path]) -> None:
    checks = kanna.verify(made["source"], made["w8a16"], threads=1).checks
    details = [check.detail for check in checks if check.name.startswith("logits, ")]
    assert details and all("and activations of 16;" in detail for detail in details)
