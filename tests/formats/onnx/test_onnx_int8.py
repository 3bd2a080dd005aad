"""Graphs made from the float one: 16 bits in storage, dynamic and static int8.

Smoothing, ranges, what stays float.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import tiny_models

import kanna
from kanna.errors import EncodingError, UsageError
from kanna.evaluation.divergence import compare
from kanna.formats.onnx import files, fp16_storage, ranges, smooth
from kanna.runtimes.onnx import RUNTIME

pytest.importorskip("onnxruntime_genai")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tiny_models.SMALL, "intermediate_size", 640)
        tiny_models.make("qwen3", folder)  # its head is tied to its embedding
    return folder


@pytest.fixture(scope="module")
def made(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An artefact of each preset, made once."""
    found: dict[str, Path] = {}
    folder = tmp_path_factory.mktemp("made")
    for preset in ("fp32", "fp16", "bf16", "int8", "w8a8"):
        found[preset] = folder / preset
        kanna.convert(source, found[preset], preset=f"onnx:{preset}", threads=1)
    return found


def logits(folder: Path) -> np.ndarray:
    ids = np.random.default_rng(0).integers(3, 500, 96).tolist()
    with RUNTIME.open(folder, context=128, threads=1) as engine:
        return engine.logits(ids)


def divergence(folder: Path, exact: Path) -> float:
    base = logits(exact)
    _, [scores] = compare(base, [logits(folder)], np.zeros(len(base), np.int64))
    return float(scores.kl.mean())


def operators(folder: Path) -> dict[str, int]:
    counts: dict[str, int] = {}
    for node in files.load(folder / "model.onnx").graph.node:
        counts[node.op_type] = counts.get(node.op_type, 0) + 1
    return counts


def weights(folder: Path) -> int:
    return (folder / "model.onnx.data").stat().st_size


def test_sixteen_bits_take_half_the_bytes_and_cost_rounding_alone(made: dict[str, Path]) -> None:
    whole = weights(made["fp32"])
    for preset, most in (("fp16", 1e-5), ("bf16", 1e-3)):
        assert (
            0.5 * whole < weights(made[preset]) < 0.62 * whole
        )  # tables of angles stay, and pages are aligned
        assert divergence(made[preset], made["fp32"]) < most
        assert operators(made[preset])["GroupQueryAttention"] == 3


def test_int8_graphs_are_what_they_say(made: dict[str, Path]) -> None:
    dynamic, static = operators(made["int8"]), operators(made["w8a8"])
    assert dynamic["MatMulInteger"] == dynamic["DynamicQuantizeLinear"] + dynamic[
        "MatMulInteger"
    ] - len(
        {
            n.input[0]
            for n in files.load(made["int8"] / "model.onnx").graph.node
            if n.op_type == "MatMulInteger"
        }
    )
    assert "MatMul" not in dynamic
    assert static["QuantizeLinear"] and static["DequantizeLinear"] >= static["MatMul"]
    whole = weights(made["fp32"])
    for preset in ("int8", "w8a8"):
        assert (
            weights(made[preset]) < 0.4 * whole
        )  # the embedding reads the head's codes: nothing of it stays float
        assert divergence(made[preset], made["fp32"]) < 0.01


def test_onnxruntime_genai_runs_them(made: dict[str, Path]) -> None:
    import onnxruntime_genai as og

    for preset in ("fp16", "int8", "w8a8"):
        model = og.Model(str(made[preset]))
        params = og.GeneratorParams(model)
        params.set_search_options(max_length=24, do_sample=False)
        generator = og.Generator(model, params)
        prompt = list(range(5, 15))
        generator.append_tokens(np.array(prompt, np.int32))
        for _ in range(8):
            generator.generate_next_token()
        found = list(map(int, generator.get_sequence(0)))[len(prompt) :]
        with RUNTIME.open(made[preset], context=64, threads=1) as engine:
            wanted: list[int] = []
            for _ in found:
                row = engine.logits(prompt + wanted, first=len(prompt) + len(wanted) - 1)[0]
                wanted.append(int(row.argmax()))
        same = sum(a == b for a, b in zip(found, wanted, strict=True))
        # A dynamic range depends on how many tokens are read at once.
        assert same == len(found) if preset == "fp16" else same >= 1


def test_what_is_excluded_stays_float(source: Path, made: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    kanna.convert(source, out, preset="onnx:int8", exclude=["down_proj"], threads=1)
    found = operators(out)
    assert found["MatMul"] == 3
    assert found["MatMulInteger"] == operators(made["int8"])["MatMulInteger"] - 3
    planned = kanna.convert(source, preset="onnx:int8", exclude=["down_proj"], dry_run=True)
    assert "--exclude down_proj" in planned.command


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"preset": "onnx:fp16", "exclude": ["x"]}, "int8 graph"),
        ({"preset": "Q4_K_M", "include": ["x"]}, "int8 graph"),
        ({"preset": "onnx:int8", "include": ["("]}, "no pattern"),
        ({"preset": "onnx:int8", "method": "search"}, "no use"),
        ({"preset": "onnx:int9"}, "no preset"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], match: str, source: Path) -> None:
    with pytest.raises(UsageError, match=match):
        kanna.convert(source, dry_run=True, **options)


def test_float16_that_overflows_is_refused(made: dict[str, Path], tmp_path: Path) -> None:
    import onnx

    model = onnx.load(str(made["fp32"] / "model.onnx"))
    tensor = next(t for t in model.graph.initializer if t.name.endswith("down_proj.MatMul.weight"))
    values = onnx.numpy_helper.to_array(tensor).copy()
    values[0, 0] = 1e5
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    (tmp_path / "float").mkdir()
    onnx.save(
        model,
        str(tmp_path / "float" / "model.onnx"),
        save_as_external_data=True,
        location="model.onnx.data",
    )
    with pytest.raises(EncodingError, match="100000"):
        fp16_storage.halve(tmp_path / "float", tmp_path, "f16")


def test_smoothing_lowers_the_error_of_outliers_and_leaves_the_product() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((128, 64)).astype(np.float32)
    x[:, 5] *= 80
    w = rng.standard_normal((64, 48)).astype(np.float32)
    divisor, before, after = smooth.best(x, [w])
    assert divisor is not None
    assert after < 0.2 * before
    assert np.allclose((x / divisor) @ (w * divisor[:, None]), x @ w, atol=1e-3)
    even = np.sign(x)
    assert smooth.best(even, [np.sign(w)])[0] is None  # exact in 8 bits already


def test_ranges_cover_what_each_calibrator_says() -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((64, 4096)).astype(np.float32)
    values[0, 0] = 60
    batches = [{"x": values[:32]}, {"x": values[32:]}]
    [low, high] = ranges.ranges(batches, "minmax")["x"]
    assert (low, high) == (values.min(), 60)
    for calibrator in ("percentile", "entropy"):
        low, high = ranges.ranges(batches, calibrator)["x"]
        inside = ((values >= low) & (values <= high)).mean()
        assert high < 30 and inside > 0.99, calibrator


def test_static_ranges_come_from_text(made: dict[str, Path]) -> None:
    """Every product's input has a scale of its own, and a zero point that lies within 8 bits."""
    graph = files.load(made["w8a8"] / "model.onnx").graph
    scales = {n.input[1] for n in graph.node if n.op_type == "QuantizeLinear"}
    assert len(scales) >= 3 * 4
    data = json.loads((made["w8a8"] / "genai_config.json").read_text())
    assert data["model"]["decoder"]["filename"] == "model.onnx"


@pytest.mark.parametrize("preset", ["fp32", "int8", "w8a8", "w4a16"])
def test_files_of_the_working_directory_are_in_nobodys_way(
    source: Path, preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """onnx asks there for the names of files that it writes elsewhere."""
    for name in ("model", "dynamic", "smoothed"):
        (tmp_path / f"{name}.onnx.data").write_bytes(b"mine")
    monkeypatch.chdir(tmp_path)
    kanna.convert(source, "out", preset=f"onnx:{preset}", threads=1)
    assert (tmp_path / "out" / "model.onnx.data").stat().st_size > 1000
    assert {p.read_bytes() for p in tmp_path.glob("*.data")} == {b"mine"}
