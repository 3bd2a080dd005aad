"""Model packages of onnxruntime: what is written, and that stock onnxruntime reads it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from helpers import tiny_models

import kanna
from kanna.errors import UsageError

ort: Any = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxruntime_genai")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of one model: for the processor, for an NPU, and the same for another NPU."""
    folder = tmp_path_factory.mktemp("variants")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tiny_models.SMALL, "intermediate_size", 640)
        tiny_models.make("qwen3", folder / "source")
    kanna.convert(folder / "source", folder / "cpu", preset="onnx:int4", threads=1)
    kanna.convert(
        folder / "source",
        folder / "npu",
        preset="onnx:w8a16",
        static="16x128",
        provider="qnn",
        threads=1,
    )
    shutil.copytree(folder / "npu", folder / "openvino")
    path = folder / "openvino" / "genai_config.json"
    path.write_text(path.read_text().replace('"qnn"', '"OpenVINO"'))
    return folder


def test_variants_are_laid_out_as_onnxruntime_reads_them(folders: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.ortpackage"
    others = [folders / "npu", folders / "openvino"]
    result = kanna.package(folders / "cpu", out, to="ortpackage", variant=others)
    assert any("loaded model.onnx on CPUExecutionProvider" in note for note in result.notes)
    assert any(note.startswith("npu was not loaded") for note in result.notes)
    info = ort.ModelPackage.open(str(out)).get_info()
    (component,) = info["components"]
    assert {v["name"]: (v["ep"], v["device"]) for v in component["variants"]} == {
        "cpu": ("CPUExecutionProvider", "cpu"),
        "npu": ("QNNExecutionProvider", "npu"),
        "openvino": ("OpenVINOExecutionProvider", "cpu"),
    }
    (asset,) = (out / "shared_assets").iterdir()
    uri = asset.name.replace("-", ":", 1)
    assert ort.ModelPackage.compute_directory_hash(str(asset)) == uri
    assert {"tokenizer.json", "tokenizer_config.json"} <= {path.name for path in asset.iterdir()}
    for variant in component["variants"]:
        folder = Path(variant["variant_directory"])
        genai = json.loads((folder / "genai_config.json").read_text())
        assert genai["model"]["tokenizer_dir"] == uri
    selected = ort.ModelPackageContext(str(out)).select_component(
        "model", ort.ModelPackageOptions(ort.SessionOptions())
    )
    assert selected.get_selected_variant_name() == "cpu"
    kanna.packaging.check(out)


def test_files_that_variants_have_alike_are_on_disk_once(folders: Path, tmp_path: Path) -> None:
    out = tmp_path / "package"
    kanna.package(folders / "npu", out, to="ortpackage", variant=folders / "openvino")
    first, second = (
        (out / "models" / "model" / name / "model.onnx.data").stat() for name in ("npu", "openvino")
    )
    assert first.st_ino == second.st_ino
    assert ort.ModelPackageContext(str(out)).get_variant_names("model") == ["npu", "openvino"]


def test_a_compiled_graph_says_what_it_runs_on(folders: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    compiled = tmp_path / "compiled"
    shutil.copytree(folders / "npu", compiled)
    model = onnx.load(str(compiled / "decode.onnx"), load_external_data=False)
    model.metadata_props.add(key="ep_compatibility_info.QNNExecutionProvider", value="htp v79")
    (compiled / "decode.onnx").write_bytes(model.SerializeToString())
    kanna.package(compiled, tmp_path / "out", to="ortpackage")
    component = json.loads((tmp_path / "out" / "models" / "model" / "component.json").read_text())
    assert component["variants"]["compiled"]["compatibility_string"] == "htp v79"


@pytest.mark.parametrize("what", ["to", "alone", "twice", "tokenizer", "provider"])
def test_what_is_no_package_is_refused(what: str, folders: Path, tmp_path: Path) -> None:
    other = tmp_path / ("cpu" if what == "twice" else "other")
    shutil.copytree(folders / "npu", other)
    to: Any = {"to": "compose", "alone": ["compose", "ortpackage"]}.get(what, "ortpackage")
    if what == "tokenizer":
        (other / "tokenizer_config.json").write_text("{}")
    if what == "provider":
        path = other / "genai_config.json"
        path.write_text(path.read_text().replace('"qnn"', '"abacus"'))
    words = {
        "to": "--to ortpackage",
        "alone": "a layout of its own",
        "twice": "two variants are called cpu",
        "tokenizer": "tokenizer_config.json of other",
        "provider": "abacus",
    }
    with pytest.raises(UsageError) as caught:
        kanna.package(folders / "cpu", tmp_path / "out", to=to, variant=other)
    assert words[what] in str(caught.value) and not (tmp_path / "out").exists()
