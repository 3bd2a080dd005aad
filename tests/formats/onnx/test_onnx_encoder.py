"""An encoder: exported, quantized, proved by the cosine of its vectors, benched."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import tiny_encoder

import kanna
from kanna.errors import FormatError, UsageError
from kanna.formats.onnx import files
from kanna.runtimes.onnx import RUNTIME
from kanna.verification import verify

for _package in ("torch", "transformers", "onnxruntime", "onnxscript"):
    pytest.importorskip(_package)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder.make(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def made(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    found: dict[str, Path] = {}
    folder = tmp_path_factory.mktemp("made")
    for preset in ("fp32", "int8", "w8a8"):
        found[preset] = folder / preset
        kanna.convert(source, found[preset], preset=f"onnx:{preset}", threads=1)
    return found


def test_each_preset_is_proved(source: Path, made: dict[str, Path]) -> None:
    for preset, path in made.items():
        result = verify(source, path, threads=1)
        assert result.status == "proved", (preset, result.checks)
        assert [c.name for c in result.checks] == ["files", "tokenizer", "embeddings"]
    assert any(
        n.op_type == "MatMulInteger" for n in files.load(made["int8"] / "model.onnx").graph.node
    )
    assert any(
        n.op_type == "QuantizeLinear" for n in files.load(made["w8a8"] / "model.onnx").graph.node
    )
    size = {p: (f / "model.onnx.data").stat().st_size for p, f in made.items()}
    assert size["int8"] < 0.4 * size["fp32"] and size["w8a8"] < 0.4 * size["fp32"]


def test_another_model_fails_the_gate(source: Path, made: dict[str, Path], tmp_path: Path) -> None:
    import torch
    import transformers

    torch.manual_seed(1)
    transformers.BertModel(transformers.BertConfig.from_pretrained(source)).save_pretrained(
        tmp_path
    )
    (tmp_path / "tokenizer.json").write_bytes((source / "tokenizer.json").read_bytes())
    result = verify(tmp_path, made["fp32"], threads=1)
    assert [c.name for c in result.checks if not c.ok] == ["embeddings"]


def test_lengths_and_pooling(made: dict[str, Path]) -> None:
    with RUNTIME.open_encoder(made["fp32"], threads=1) as encoder:
        short, long = encoder.embed(["ab", "word " * 400])
        assert np.linalg.norm(short) == pytest.approx(1, abs=1e-5)
        assert np.linalg.norm(long) == pytest.approx(1, abs=1e-5)
        ids = encoder.ids("word " * 400)
        assert len(ids) == 192 and (ids[0], ids[-1]) == (2, 3)


def test_weights_in_the_working_directory_are_in_nobodys_way(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.onnx.data").write_bytes(b"mine")
    monkeypatch.chdir(tmp_path)
    kanna.convert(source, "out", preset="onnx:fp32", threads=1)
    assert (tmp_path / "model.onnx.data").read_bytes() == b"mine"


def test_it_is_benched_and_generates_nothing(made: dict[str, Path]) -> None:
    [row] = kanna.bench([made["int8"]], prompt_tokens=64, repeat=1, threads=1)
    assert row.runtime == "onnx" and row.threads == 1
    assert row.prompt_tps > 0 and row.ttft_s > 0 and row.peak_bytes > 0
    assert row.gen_tps == 0
    with pytest.raises(FormatError, match="generates no text"):
        RUNTIME.open(made["int8"])


def test_wrong_options_are_refused(source: Path) -> None:
    with pytest.raises(UsageError, match="no preset"):
        kanna.convert(source, preset="onnx:int4", dry_run=True)
    with pytest.raises(UsageError, match="no use"):
        kanna.convert(source, format="onnx", method="search", dry_run=True)
    planned = kanna.convert(source, preset="onnx:int8", dry_run=True)
    assert {t["encoding"] for t in planned.tensors} == {"i8", "f32"}
    assert json.loads((source / "config.json").read_text())["architectures"] == ["BertModel"]
