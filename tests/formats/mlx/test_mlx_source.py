"""Folders of mlx-lm as sources."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import tiny_models

from kanna import convert
from kanna.errors import FormatError, UnsupportedError
from kanna.formats import gguf
from kanna.sources import open_source

mx = pytest.importorskip("mlx.core")
mlx_lm = pytest.importorskip("mlx_lm")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("mlx")
    (place / "hf").mkdir()
    tiny_models.make("llama", place / "hf")
    mlx_lm.convert(
        str(place / "hf"),
        str(place / "mlx"),
        quantize=True,
        q_group_size=64,
        quant_predicate="mixed_3_6",
    )
    return place / "mlx"


def test_every_matrix_has_the_values_mlx_gives_it(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())["quantization"]
    stored = mx.load(str(folder / "model.safetensors"))
    widths: set[int] = set()
    for name, tensor in open_source(folder).tensors.items():
        base = name.removesuffix(".weight")
        if f"{base}.scales" not in stored:
            continue
        own = config.get(base, config)
        widths.add(own["bits"])
        assert np.array_equal(tensor.rows(3, 9), tensor.rows(0, 12)[3:9])
        parts = [stored[f"{base}.{k}"] for k in ("weight", "scales", "biases")]
        wanted = mx.dequantize(
            *parts, group_size=own["group_size"], bits=own["bits"], stream=mx.cpu
        )
        got = tensor.rows(3, tensor.shape[0])
        np.testing.assert_allclose(got, np.array(wanted.astype(mx.float32))[3:], rtol=0, atol=1e-6)
    assert widths == {3, 6}


def test_it_becomes_a_gguf(folder: Path, tmp_path: Path) -> None:
    convert(folder, tmp_path / "model.gguf", encoding="f32")
    source = open_source(folder).tensors["model.layers.0.mlp.down_proj.weight"]
    made = gguf.read(tmp_path / "model.gguf").tensors["blk.0.ffn_down.weight"]
    assert np.array_equal(made.rows(0, 8), source.rows(0, 8))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"mode": "nf7"}, UnsupportedError),
        ({"bits": 7}, FormatError),
        ({"group_size": 32}, FormatError),
    ],
)
def test_settings_that_cannot_be_are_refused(
    folder: Path, tmp_path: Path, change: dict, error: type
) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["quantization"] = {
        k: v for k, v in config["quantization"].items() if not isinstance(v, dict)
    } | change
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(error):
        open_source(tmp_path)
