"""Finite values beyond what an encoding holds are refused by name, never made infinite."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import kanna
from kanna import encodings
from kanna.conversion import ConversionRequest, convert
from kanna.errors import EncodingError
from kanna.families.views import Computed
from kanna.formats.stream import encode_rows
from kanna.plan.types import TensorPlan

TOO_LARGE = {
    "f16": 65520.0,
    "bf16": 3.4e38,
    "q8_0": 1e7,
    "q4_0": 1e7,
    "q5_1": 1e7,
    "q4_k": 1e9,
    "q6_k": 1e9,
    "iq4_xs": 1e9,
    "q1_0": 1e7,
    "nvfp4": 1e9,
    "affine4g64_f16": 1e7,
}
HELD = {"f16": 65504.0, "bf16": 1e30, "f32": 1e30, "q8_0": 1e6, "q4_k": 1e6, "mxfp4": 1e7}


def encoded(name: str, value: float, shape: tuple[int, ...] = (2, 256)) -> np.ndarray:
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    values.flat[3] = value
    encoding = encodings.get(name)
    entry = TensorPlan(name="blk.0.x", tensor=Computed("blk.0.x", values), encoding=encoding)
    rows = encode_rows(entry, 0, shape[0] if len(shape) > 1 else 1)
    return encoding.decode(rows, values.shape[-1])


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("name", TOO_LARGE)
def test_too_large_values_are_refused_by_name(name: str, sign: int) -> None:
    with pytest.raises(EncodingError, match=r"blk\.0\.x: .*largest is"):
        encoded(name, sign * TOO_LARGE[name])


@pytest.mark.parametrize("name", HELD)
def test_large_values_that_fit_are_kept(name: str) -> None:
    decoded = encoded(name, HELD[name])
    assert np.isfinite(decoded).all()
    assert abs(decoded[0, 3] - HELD[name]) <= 0.2 * HELD[name]


def test_a_norm_is_held_to_the_same() -> None:
    with pytest.raises(EncodingError, match="would become infinite"):
        encoded("f16", 1e5, (256,))


FORMATS = {
    "gguf": ConversionRequest(encoding="f16"),
    "mlx": ConversionRequest(preset="f16"),
    "safetensors": ConversionRequest(encoding="f16"),
    "onnx": ConversionRequest(preset="fp16"),
}
SHORT = {
    "gguf": ConversionRequest(encoding="bf16"),
    "mlx": ConversionRequest(preset="bf16"),
    "safetensors": ConversionRequest(encoding="bf16"),
    "onnx": ConversionRequest(preset="bf16"),
}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", ["model.layers.0.mlp.up_proj.weight", "model.norm.weight"])
def test_no_format_writes_infinity(
    format: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers")
    from helpers import tiny_models

    # The builder of ONNX graphs takes a matrix for the head when both have as many rows.
    monkeypatch.setitem(tiny_models.SMALL, "intermediate_size", 640)
    tiny_models.make("llama", tmp_path / "tiny")
    weights = tmp_path / "tiny" / "model.safetensors"
    values = load_file(weights)
    values[name].flat[5] = 1e5
    save_file(values, weights)
    if format == "onnx" and "norm" in name:
        return  # vectors are f32 there
    if format == "gguf" and "norm" in name:
        convert(tmp_path / "tiny", tmp_path / "out", FORMATS[format], format=format)
        return  # norms are f32 there
    with pytest.raises(EncodingError, match="would become infinite"):
        convert(tmp_path / "tiny", tmp_path / "out", FORMATS[format], format=format)
    assert not (tmp_path / "out").is_file() and not list(tmp_path.glob("out/*.safetensors"))


@pytest.mark.parametrize("format", SHORT)
def test_bfloat16_has_an_end_too(
    format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers")
    from helpers import tiny_models

    monkeypatch.setitem(tiny_models.SMALL, "intermediate_size", 640)
    tiny_models.make("llama", tmp_path / "tiny")
    weights, name = tmp_path / "tiny" / "model.safetensors", "model.layers.0.mlp.up_proj.weight"
    values = load_file(weights)
    values[name].flat[5] = 3.4e38
    save_file(values, weights)
    named = "model.layers.0.mlp.up_proj" if format != "gguf" else "blk.0.ffn_up"
    with pytest.raises(EncodingError, match=f"{named}.*would become infinite"):
        convert(tmp_path / "tiny", tmp_path / "out", SHORT[format], format=format)


def test_the_gate_sees_activations_beyond_float16(tmp_path: Path) -> None:
    """Weights fit, and what is computed with them does not: mlx would give infinity on a Mac."""
    for package in ("transformers", "mlx_lm"):
        pytest.importorskip(package)
    from helpers import tiny_models

    tiny_models.make("smollm", tmp_path / "tiny")
    weights = tmp_path / "tiny" / "model.safetensors"
    kanna.convert(tmp_path / "tiny", tmp_path / "small", preset="mlx:f16", threads=1)
    small = kanna.verify(tmp_path / "tiny", tmp_path / "small", threads=1)
    assert [c.ok for c in small.checks if c.name == "activations in float16"] == [True]
    values = load_file(weights)
    values["model.layers.1.mlp.down_proj.weight"] *= np.float32(2e5)
    assert np.abs(values["model.layers.1.mlp.down_proj.weight"]).max() < 65504
    save_file(values, weights, {"format": "pt"})
    for preset, ok in (("mlx:f16", [False]), ("mlx:bf16", [])):
        out = tmp_path / preset.replace(":", "-")
        kanna.convert(tmp_path / "tiny", out, preset=preset, threads=1)
        checks = kanna.verify(tmp_path / "tiny", out, threads=1).checks
        found = [c for c in checks if c.name == "activations in float16"]
        assert [c.ok for c in found] == ok
        assert all("model.layers.1" in c.detail for c in found)
