"""Context binaries: what is refused, and what vendors' compilers make where they are installed."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from helpers import tiny_models

import kanna
from kanna.cli.main import cli
from kanna.errors import KannaError, MissingError, OutputError, UnsupportedError, UsageError
from kanna.formats.onnx import files

ort: Any = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxruntime_genai")
QNN = importlib.util.find_spec("onnxruntime_qnn") is not None
OPENVINO = "OpenVINOExecutionProvider" in ort.get_available_providers()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Graphs of codes with fixed shapes, and a dynamic one."""
    folder = tmp_path_factory.mktemp("compile")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tiny_models.SMALL, "intermediate_size", 640)
        tiny_models.make("qwen3", folder / "source")
    source = folder / "source"
    kanna.convert(source, folder / "dynamic", preset="onnx:int4", threads=1)
    kanna.convert(source, folder / "static", preset="onnx:w8a16", static="16x128", threads=1)
    return {path.name: path for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("folder", "provider", "kind", "words"),
    [
        ("dynamic", "qnn", UsageError, "--static"),
        ("dynamic", "cpu", UnsupportedError, "compiled nothing of model.onnx"),
        ("source", "qnn", UsageError, "an ONNX folder of a decoder"),
        ("static", "qun", UsageError, "qnn"),
        pytest.param(
            *("static", "qnn", MissingError, "onnxruntime-qnn"),
            marks=pytest.mark.skipif(QNN, reason="onnxruntime-qnn is here"),
        ),
    ],
)
def test_what_cannot_be_compiled_is_refused(
    made: dict[str, Path],
    folder: str,
    provider: str,
    kind: type[KannaError],
    words: str,
    tmp_path: Path,
) -> None:
    with pytest.raises(kind) as caught:
        kanna.compile(made[folder], tmp_path / "out", provider=provider)
    assert words in str(caught.value) and not list(tmp_path.iterdir())


def test_nothing_is_overwritten(made: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="--overwrite"):
        kanna.compile(made["static"], tmp_path, provider="qnn")
    words = ["compile", str(made["static"]), "--provider", "qnn", "-o", str(tmp_path)]
    assert CliRunner().invoke(cli, words).exit_code == 1


@pytest.mark.slow
@pytest.mark.skipif(not QNN, reason="needs onnxruntime-qnn")
def test_qnn_compiles_each_graph_to_one_context(made: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "compiled"
    result = kanna.compile(made["static"], out, provider="qnn")
    assert {one.contexts for one in result.graphs.values()} == {1}
    assert all(one.compatibility for one in result.graphs.values())
    genai = json.loads((out / "genai_config.json").read_text())
    assert genai["model"]["decoder"]["pipeline"] and (out / "tokenizer.json").exists()
    for name in result.graphs:
        operators = {node.op_type for node in files.load(out / name).graph.node}
        assert "EPContext" in operators and "MatMul" not in operators


@pytest.mark.slow
@pytest.mark.skipif(not OPENVINO, reason="needs onnxruntime-openvino")
def test_what_the_provider_does_not_load_again_is_not_written(
    made: dict[str, Path], tmp_path: Path
) -> None:
    """onnxruntime-openvino 1.24.1 compiles these graphs, and refuses what it wrote."""
    with pytest.raises(KannaError, match="EP_FAIL"):
        kanna.compile(made["static"], tmp_path / "compiled", provider="openvino")
    assert not list(tmp_path.iterdir())
