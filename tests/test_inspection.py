"""What `inspect` says of folders, artefacts, and files it does not know."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from gguf import GGUFWriter

import kanna
from kanna.cli.main import cli

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from helpers import tiny_models  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tiny") / "tiny-llama"
    tiny_models.make("llama", made)
    return made


def test_folder(folder: Path) -> None:
    found = kanna.inspect(folder)
    assert (found.kind, found.family, found.known_family) == ("Hugging Face model", "llama", True)
    assert found.shape["layers"] == 3 and found.shape["hidden"] == 256
    assert found.context == 1024
    assert found.parameters == sum(np.prod(t["shape"]) for t in found.tensors)
    assert found.bits_per_weight == 32 and found.precision_class.startswith("full")
    assert found.tokenizer["kind"] == "llama" and found.tokenizer["size"] == 512
    assert found.chat_template["present"] and found.chat_template["excerpt"].startswith(
        "{% for m in messages %}"
    )
    assert found.license is None and found.problems == []
    weights = folder / "model.safetensors"
    assert found.hash == "sha256:" + hashlib.sha256(weights.read_bytes()).hexdigest()


def test_artefact_tells_how_it_was_made(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "tiny.gguf"
    kanna.convert(folder, out, preset="Q4_K_M")
    found = kanna.inspect(out)
    assert found.provenance["kanna.command"] == "kanna convert tiny-llama --preset Q4_K_M"
    assert set(found.provenance["kanna.source.sha256"]) == {
        "model.safetensors",
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert sum(t["bytes"] for t in found.types) == found.bytes
    assert {"q4_k", "q6_k"} <= {t["encoding"] for t in found.types}
    run = CliRunner().invoke(cli, ["inspect", str(out), "--tensors"])
    assert run.exit_code == 0, run.output
    assert (
        "kanna convert tiny-llama --preset Q4_K_M" in run.stdout
        and "blk.2.ffn_down.weight" in run.stdout
    )


def test_gguf_of_an_unknown_architecture(tmp_path: Path) -> None:
    path = tmp_path / "odd.gguf"
    writer = GGUFWriter(path, "martian")
    writer.add_uint32("martian.context_length", 77)
    writer.add_tensor("strange.weight", np.ones((2, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = kanna.inspect(path)
    assert (found.family, found.known_family, found.context, found.parameters) == (
        "martian",
        False,
        77,
        64,
    )
    assert found.tokenizer == {"kind": None, "size": 0, "pre": None}
    run = CliRunner().invoke(cli, ["inspect", str(path)])
    assert run.exit_code == 0 and "martian" in run.stdout and "none in this source" in run.stdout


def test_unsupported_folder_is_shown_with_the_reason(folder: Path, tmp_path: Path) -> None:
    odd = tmp_path / "odd"
    odd.mkdir()
    for file in folder.iterdir():
        (odd / file.name).write_bytes(file.read_bytes())
    config = json.loads((odd / "config.json").read_text())
    (odd / "config.json").write_text(
        json.dumps(config | {"architectures": ["Martian"], "model_type": "martian"})
    )
    found = kanna.inspect(odd)
    assert found.family == "martian" and not found.known_family
    assert "Martian" in found.problems[0]["found"]
    run = CliRunner().invoke(cli, ["inspect", str(odd)])
    assert run.exit_code == 0 and "cannot be converted" in run.stdout


def test_an_artefact_that_is_no_source_is_shown(tmp_path: Path) -> None:
    onnx = tmp_path / "tiny-onnx"
    onnx.mkdir()
    (onnx / "genai_config.json").write_text("{}")
    (onnx / "model.onnx").write_bytes(b"x" * 1000)
    shown = kanna.inspect(onnx)
    assert (shown.name, shown.kind, shown.bytes) == ("tiny-onnx", "ONNX folder", 1002)
    assert shown.precision_class == "" and "nothing is read back" in shown.problems[0]["found"]
    ran = CliRunner().invoke(cli, ["inspect", str(onnx)])
    assert ran.exit_code == 0 and "ONNX folder" in ran.output, ran.output


def test_json_is_plain(folder: Path) -> None:
    run = CliRunner().invoke(cli, ["inspect", str(folder), "--json"])
    assert json.loads(run.stdout)["family"] == "llama"


def test_hash_on_demand(folder: Path) -> None:
    assert kanna.inspect(folder, hash=False).hash is None


def test_an_encoder_is_no_problem(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    config = {"architectures": ["BertModel"], "model_type": "bert"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file({"embeddings.weight": np.zeros((4, 8), np.float32)}, tmp_path / "model.safetensors")
    shown = kanna.inspect(tmp_path)
    assert not shown.problems and "onnx:int8" in shown.notes[0]
