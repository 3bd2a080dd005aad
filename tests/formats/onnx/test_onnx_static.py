"""Graphs of fixed shapes: tokens and logits of the dynamic graph, in kanna and stock genai."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import in_process, tiny_models
from helpers.onnx_logits import logits

import kanna
from kanna.errors import KannaError, UnsupportedError, UsageError
from kanna.evaluation.divergence import compare
from kanna.formats.onnx import build, static_shapes
from kanna.formats.onnx.static_shapes import DECODE, PREFILL, StaticShape

SHAPE = "16x128"
REFUSED = {"gpt-oss": "sinks", "ernie": "neighbours", "hunyuan": "position_ids"}
BY_DEFAULT = {"gemma2", "gemma3", "phi4-mini", "qwen3", *REFUSED}
"""Soft caps, windows, norms of heads, a long rope, joined and single matrices: the rest is slow."""
NAMES = sorted(n for n, r in tiny_models.RECIPES.items() if r.family not in build.REFUSED)


@pytest.fixture(autouse=True)
def _distinct(monkeypatch: pytest.MonkeyPatch) -> None:
    """The builder takes a matrix for the head when both have as many rows."""
    for key, value in (("intermediate_size", 640), ("vocab_size", 544)):
        monkeypatch.setitem(tiny_models.SMALL, key, value)


def kl(wanted: np.ndarray, got: np.ndarray) -> float:
    _, [scores] = compare(wanted, [got], np.zeros(len(wanted), np.int64), threads=1)
    return float(scores.kl.mean())


def both(source: Path, tmp_path: Path, preset: str) -> tuple[Path, Path]:
    """Folders of the dynamic graph and of those of fixed shapes."""
    dynamic, static = tmp_path / "dynamic", tmp_path / "static"
    kanna.convert(source, dynamic, preset=preset, threads=1)
    shutil.copytree(dynamic, static)
    static_shapes.fix(static, StaticShape.parse(SHAPE))
    return dynamic, static


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in BY_DEFAULT else [pytest.mark.slow]) for n in NAMES]
)
def test_static_graphs_are_the_dynamic_one(name: str, tmp_path: Path) -> None:
    """Chunks of a prompt, the last of them padded, and single tokens after it."""
    source = tmp_path / "source"
    source.mkdir()
    tiny_models.make(name, source)
    if name in REFUSED:
        with pytest.raises(UnsupportedError, match=REFUSED[name]):
            kanna.convert(source, tmp_path / "out", preset="onnx:fp32", static=SHAPE, threads=1)
        assert not (tmp_path / "out").exists()
        return
    dynamic, static = both(source, tmp_path, "onnx:fp32")
    ids = np.random.default_rng(0).integers(3, 500, (1, 107))
    wanted = logits(dynamic, ids)
    with in_process.opened(static, context=128) as engine:
        cuts = ((0, 90), (90, 105), (105, 106), (106, 107))
        got = np.concatenate([engine.forward(ids[0, a:b].tolist(), b - a) for a, b in cuts])
        assert engine.rewind(100) == 100
        again = engine.forward(ids[0, 100:].tolist(), 3)
    assert kl(wanted, got) < 1e-6
    assert np.array_equal(wanted.argmax(1), got.argmax(1))
    assert np.allclose(again, got[-3:], atol=1e-4)


@pytest.mark.parametrize("preset", ["onnx:int4", pytest.param("onnx:w8a8", marks=pytest.mark.slow)])
def test_every_preset_has_static_graphs(preset: str, tmp_path: Path) -> None:
    """As `convert --static` writes them; every shape is fixed, and the weights are there once."""
    import onnx

    tiny_models.make("llama", tmp_path)
    dynamic, static = tmp_path / "dynamic", tmp_path / "static"
    kanna.convert(tmp_path, dynamic, preset=preset, threads=1)
    result = kanna.convert(tmp_path, static, preset=preset, static=SHAPE, threads=1)
    assert result.command.endswith(f"--static {SHAPE}")
    names = {p.name for p in static.iterdir()}
    assert {PREFILL, DECODE, "model.onnx.data"} < names and "model.onnx" not in names
    data = (dynamic / "model.onnx.data").stat().st_size
    assert (static / "model.onnx.data").stat().st_size <= data
    for name in (PREFILL, DECODE):
        graph = onnx.load(str(static / name), load_external_data=False).graph
        for value in (*graph.input, *graph.output):
            assert all(d.dim_value for d in value.type.tensor_type.shape.dim), value.name
    ids = np.random.default_rng(0).integers(3, 500, (1, 70))
    with in_process.opened(static, context=128) as engine:
        got = engine.forward(ids[0].tolist(), 70)
    # Activations next to the edge of a step are rounded to the other side of it.
    assert kl(logits(dynamic, ids), got) < 1e-3


def generated(folder: Path, ids: np.ndarray, count: int) -> list[int]:
    """Greedy tokens of stock onnxruntime-genai."""
    genai: Any = importlib.import_module("onnxruntime_genai")
    model = genai.Model(str(folder))
    options = genai.GeneratorParams(model)
    search = json.loads((folder / "genai_config.json").read_text())["search"]
    options.set_search_options(max_length=search["max_length"], do_sample=False)
    generator = genai.Generator(model, options)
    generator.append_tokens(ids.astype(np.int32))
    tokens: list[int] = []
    while len(tokens) < count and not generator.is_done():
        generator.generate_next_token()
        tokens.append(int(generator.get_next_tokens()[0]))
    return tokens


def test_stock_genai_generates_the_same_tokens(tmp_path: Path) -> None:
    tiny_models.make("gemma3", tmp_path)
    dynamic, static = both(tmp_path, tmp_path, "onnx:fp32")
    ids = np.random.default_rng(1).integers(5, 500, 53)
    tokens = generated(static, ids, 24)
    assert len(tokens) > 8
    assert tokens == generated(dynamic, ids, 24)


def test_the_gate_takes_static_folders(tmp_path: Path) -> None:
    tiny_models.make("llama", tmp_path)
    kanna.convert(tmp_path, tmp_path / "out", preset="onnx:fp32", static=SHAPE, threads=1)
    proof = kanna.verify(tmp_path, tmp_path / "out", threads=1)
    assert proof.ok, proof.headline()


@pytest.mark.parametrize(
    ("static", "words"),
    [
        ("64", "no shape"),
        ("0x128", "chunks of 0"),
        ("48x128", "chunks of 48"),
        ("128x128", "chunks of 128"),
        ("16x4096", "at most 1024"),
    ],
)
def test_shapes_that_are_none_are_refused(static: str, words: str, tmp_path: Path) -> None:
    tiny_models.make("llama", tmp_path)
    with pytest.raises(UsageError, match=words):
        kanna.convert(tmp_path, preset="onnx:fp32", static=static, dry_run=True)


def test_other_formats_have_no_static_shapes(tiny_gguf: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--static has no use for gguf: it is for ONNX graphs"):
        kanna.convert(tiny_gguf, tmp_path / "out.gguf", preset="Q8_0", static=SHAPE)


def test_pipelines_of_other_stages_are_refused(tmp_path: Path) -> None:
    tiny_models.make("llama", tmp_path)
    out = tmp_path / "out"
    kanna.convert(tmp_path, out, preset="onnx:fp32", static=SHAPE, threads=1)
    config = json.loads((out / "genai_config.json").read_text())
    [stages] = config["model"]["decoder"]["pipeline"]
    stages["head"] = {"filename": "head.onnx", "inputs": [], "outputs": []}
    (out / "genai_config.json").write_text(json.dumps(config))
    with pytest.raises(KannaError, match="other stages"):
        kanna.generate(out, "a")
