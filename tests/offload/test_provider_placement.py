"""Execution providers: which nodes they compute, by onnxruntime's own record and by their tables.

The slow tests need a provider: `pip install --no-deps --target DIR onnxruntime-qnn` (or
onnxruntime-openvino), then `PYTHONPATH=src:DIR`.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from helpers import tiny_models

import kanna
from kanna import verification
from kanna.errors import FormatError, KannaError, MissingError, UsageError
from kanna.hardware import providers
from kanna.offload import providers as placement
from kanna.runtimes import onnx_session

pytest.importorskip("onnxruntime_genai")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A source, a graph of few bits for the CPU, and one of codes and fixed shapes for QNN."""
    folder = tmp_path_factory.mktemp("providers")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tiny_models.SMALL, "intermediate_size", 640)
        tiny_models.make("qwen3", folder / "source")
    given = {"threads": 1, "overwrite": True}
    source = folder / "source"
    kanna.convert(source, folder / "cpu", preset="onnx:int4", provider="cpu", **given)
    kanna.convert(
        source, folder / "qnn", preset="onnx:w8a16", static="16x128", provider="qnn", **given
    )
    return {path.name: path for path in folder.iterdir()}


def test_the_folder_names_its_provider_and_the_command_makes_it_again(
    made: dict[str, Path],
) -> None:
    genai = json.loads((made["qnn"] / "genai_config.json").read_text())
    options = genai["model"]["decoder"]["session_options"]["provider_options"]
    assert options == [{"qnn": dict(providers.get("qnn").options)}]
    result = kanna.convert(
        made["source"], preset="onnx:w8a16", static="16x128", provider="qnn", dry_run=True
    )
    assert "--provider qnn" in result.command


def test_onnxruntime_records_what_the_cpu_computes(made: dict[str, Path]) -> None:
    result = kanna.verify(made["source"], made["cpu"], provider="cpu", threads=1)
    assert result.status == "proved", result.headline()
    assert result.offload is not None and result.offload["basis"] == placement.proof.MEASURED
    nodes = result.offload["graphs"]["model.onnx"]["nodes"]
    assert set(nodes) == {"CPUExecutionProvider"} and nodes["CPUExecutionProvider"]["MatMulNBits"]
    [placed] = [check for check in result.checks if check.name == "cpu: model.onnx"]
    count = sum(nodes["CPUExecutionProvider"].values())
    assert placed.detail == f"{count} of {count} nodes, as onnxruntime placed them"


def absent(name: str) -> bool:
    """Whether the library of a provider is not installed beside onnxruntime."""
    plugin = providers.get(name).plugin
    return plugin is None or importlib.util.find_spec(plugin.module) is None


@pytest.mark.skipif(not absent("qnn"), reason="onnxruntime-qnn is here")
def test_without_the_provider_its_table_decides_and_says_so(made: dict[str, Path]) -> None:
    proof = placement.prove(made["qnn"], "qnn", threads=1)
    assert proof.basis == placement.proof.TABLE
    assert {check.ok for check in proof.checks} == {None}
    assert all("table of" in check.detail for check in proof.checks[:2])
    assert "onnxruntime-qnn" in proof.checks[-1].detail
    grouped = placement.prove(made["cpu"], "xnnpack", threads=1)
    assert grouped.checks[0].ok is False and "MatMulNBits" in grouped.checks[0].detail


def test_a_file_of_another_format_is_refused(made: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match="ONNX folder"):
        placement.prove(made["source"], "cpu")


@pytest.mark.parametrize(
    ("device", "kind", "words"),
    [
        ({"provider": "opnvino"}, UsageError, "did you mean openvino"),
        ({"backend": "vulcan"}, UsageError, "did you mean vulkan"),
        ({"backend": "sycl"}, MissingError, "no llama.cpp for sycl"),
        ({"backend": "cpu"}, FormatError, "is a folder"),
        ({"backend": "cpu", "provider": "cpu"}, UsageError, "given together"),
    ],
)
def test_a_device_that_cannot_be_asked_is_told_first(
    device: dict[str, Any],
    kind: type[KannaError],
    words: str,
    made: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before minutes of checks and measurements, and alike in both verbs."""
    monkeypatch.setattr(verification, "_checks", lambda *_: pytest.fail("the file was checked"))
    with pytest.raises(kind, match=words):
        kanna.verify(made["source"], made["cpu"], threads=1, **device)
    with pytest.raises(kind, match=words):
        kanna.bench([made["cpu"]], threads=1, **device)


@pytest.mark.slow
@pytest.mark.skipif(absent("qnn"), reason="needs onnxruntime-qnn")
def test_qnn_takes_the_graph_and_its_simulator_computes_what_the_cpu_does(
    made: dict[str, Path],
) -> None:
    proof = placement.prove(made["qnn"], "qnn", threads=1)
    assert all(check.ok for check in proof.checks), proof.checks
    assert proof.basis == placement.proof.MEASURED
    for graph in proof.graphs.values():
        assert graph["parts"]["QNNExecutionProvider"] == 1
        assert sum(graph["nodes"].get("CPUExecutionProvider", {}).values()) <= 3


@pytest.mark.slow
def test_openvino_takes_the_graph_of_codes_whole(made: dict[str, Path]) -> None:
    lib: Any = pytest.importorskip("onnxruntime")
    if "OpenVINOExecutionProvider" not in lib.get_available_providers():
        pytest.skip("needs onnxruntime-openvino in the place of onnxruntime")
    proof = placement.prove(made["qnn"], "openvino", threads=1)
    # It rounds codes of 16 bits otherwise: logits of a prompt are 0.05 away, and told so.
    placed = [check for check in proof.checks if "logits" not in check.name]
    assert all(check.ok for check in placed), proof.checks
    assert all(g["parts"]["OpenVINOExecutionProvider"] == 1 for g in proof.graphs.values())


def test_the_environment_names_the_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(onnx_session.VARIABLE, "qnn")
    profile = onnx_session.wanted(Path("model.onnx"))
    assert profile is not None and profile.provider == "QNNExecutionProvider"
    assert placement.variables("QNNExecutionProvider") == {onnx_session.VARIABLE: "qnn"}
    assert placement.variables(None) == {}
    monkeypatch.setenv(onnx_session.GRAPH, "decode.onnx")
    assert onnx_session.wanted(Path("model.onnx")) is None
