"""MatMulNBits encodings.

The values stock onnxruntime reads, and errors beside its own quantizers.
"""

from __future__ import annotations

import numpy as np
import pytest

from kanna import _native, encodings, methods
from kanna.encodings.grouped import nbits
from kanna.errors import EncodingError, UnsupportedError
from kanna.formats.onnx.packing import split
from kanna.methods import Inputs
from kanna.methods.hessian import SecondMoment
from kanna.model import F32

NAMES = [e.name for e in nbits.ENCODINGS]


def values(rows: int = 40, cols: int = 512, seed: int = 0) -> F32:
    rng = np.random.default_rng(seed)
    x = rng.standard_t(5, (rows, cols)).astype(np.float32) * np.float32(0.03)
    x[5] = np.abs(x[5])
    x[7] *= 1e-3
    return x


def dequantized(name: str, data: np.ndarray, cols: int) -> F32:
    """What onnxruntime's MatMulNBits holds: its product with the unit matrix."""
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    kind, rows = nbits.parse(name), len(data)
    assert kind is not None
    codes, scales, zeros = split(kind, data)
    stored = scales.view(np.float16 if kind.half else np.float32).reshape(rows, -1)
    tensors = [numpy_helper.from_array(codes.reshape(rows, -1, kind.code_bytes), "codes")]
    tensors.append(numpy_helper.from_array(stored, "stored"))
    inputs = ["x", "codes", "scales"]
    if zeros is not None:
        tensors.append(numpy_helper.from_array(zeros, "zeros"))
        inputs.append("zeros")
    shape = {"K": cols, "N": rows, "bits": kind.bits, "block_size": kind.group, "accuracy_level": 0}
    nodes = [
        helper.make_node("Cast", ["stored"], ["scales"], to=TensorProto.FLOAT),
        helper.make_node("MatMulNBits", inputs, ["y"], domain="com.microsoft", **shape),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [info("x", TensorProto.FLOAT, [cols, cols])],
        [info("y", TensorProto.FLOAT, [cols, rows])],
        tensors,
    )
    versions = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=versions, ir_version=10)
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"x": np.eye(cols, dtype=np.float32)})[0].T


@pytest.mark.parametrize("name", [n for n in NAMES if not n.endswith("_f32") or "g32" in n])
def test_onnxruntime_reads_the_values_we_wrote(name: str) -> None:
    x = values()
    encoding = encodings.get(name)
    data = encoding.encode(x, method="search")
    assert np.array_equal(dequantized(name, data, x.shape[1]), encoding.decode(data, x.shape[1]))


@pytest.mark.parametrize("group", nbits.GROUPS)
@pytest.mark.parametrize("bits", [4, 8])
def test_no_row_is_worse_than_with_the_quantizers_of_onnxruntime(bits: int, group: int) -> None:
    from onnxruntime.quantization.neural_compressor.weight_only import (
        quant_tensor,
        quant_tensor_k_quant_cpu,
    )

    x = values()
    evenly = np.ones(x.shape[1], np.float32)
    theirs: list[F32] = []
    for find in (quant_tensor, quant_tensor_k_quant_cpu):
        for scheme in ("asym",) if find is not quant_tensor else ("asym", "sym"):
            extra = (scheme, "uint") if find is quant_tensor else ()
            codes, scale, zero = find(x.copy(), bits, group, *extra)
            value = (codes.astype(np.float32) - zero.astype(np.float32)) * scale
            theirs.append(value.reshape(x.shape).astype(np.float32))
    best = min(float(np.square(t - x).sum()) for t in theirs)
    symmetric = float(np.square(theirs[1] - x).sum())
    for name, bound in (
        (f"nbits{bits}g{group}_f32", best),
        (f"nbits{bits}g{group}s_f32", symmetric),
    ):
        encoding = encodings.get(name)
        ours = encoding.decode(encoding.encode(x, weights=evenly), x.shape[1])
        assert float(np.square(ours - x).sum()) <= bound * 1.0001, name


@pytest.mark.parametrize(
    "name", ["nbits2g32", "nbits4g32", "nbits4g16s", "nbits8g64", "nbits4g256_f32"]
)
def test_feedback_lowers_the_error_under_the_inputs(name: str) -> None:
    rng = np.random.default_rng(1)
    x = values(48, 256)
    mix = rng.standard_normal((256, 64)).astype(np.float32)
    h = np.ascontiguousarray(mix @ mix.T / 64 + 0.1 * np.eye(256, dtype=np.float32))
    second_moment = SecondMoment(lambda: [h], shrink=0.0)
    inputs = Inputs(weights=h.diagonal().copy(), second_moment=second_moment)
    encoding = encodings.get(name)

    def error(method: str) -> float:
        e = encoding.decode(methods.get(method).encode(encoding, x, inputs), 256) - x
        return float(np.einsum("ri,ij,rj->", e, h, e, dtype=np.float64))

    assert error("gptq") < 0.7 * error("search") < 0.7 * error("nearest")


@pytest.mark.parametrize("name", ["nbits2g16", "nbits4g32", "nbits4g64s", "nbits8g128_f32"])
def test_bytes_are_the_same_on_every_instruction_set_and_number_of_threads(name: str) -> None:
    x, used = values(), _native.simd()
    h = np.ascontiguousarray(
        np.cov(values(seed=2).T).astype(np.float32) * 1e3 + np.eye(512, dtype=np.float32)
    )
    found: set[bytes] = set()
    try:
        for isa in _native.simd_available():
            _native.set_simd(isa)
            for threads in (1, 3):
                second_moment = SecondMoment(lambda: [h], shrink=0.5)
                data = methods.get("gptq").encode(
                    encodings.get(name), x, Inputs(second_moment=second_moment), threads=threads
                )
                found.add(data.tobytes())
    finally:
        _native.set_simd(used)
    assert len(found) == 1


def test_zero_and_constant_groups_are_exact() -> None:
    x = np.zeros((4, 64), np.float32)
    x[1], x[2], x[3, :32] = 0.25, -0.25, 1.0
    for name in ("nbits4g32", "nbits8g32", "nbits4g32s"):
        encoding = encodings.get(name)
        assert np.abs(encoding.decode(encoding.encode(x), 64) - x).max() < 1e-3


def test_wrong_widths_groups_and_shapes_are_named() -> None:
    with pytest.raises(UnsupportedError, match="no codes of 3 bits"):
        encodings.get("nbits3g32")
    with pytest.raises(UnsupportedError, match="no groups of 48"):
        encodings.get("nbits4g48")
    with pytest.raises(EncodingError, match="576"):
        encodings.get("nbits4g128").encode(np.zeros((1, 576), np.float32))
