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
from kanna import families
from kanna.cli.main import cli
from kanna.comparison.formats import choices
from kanna.comparison.planning import plan_rows
from kanna.sources import open_source
from kanna.verification import parity

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


def test_what_kanna_wrote_is_no_source_that_was_quantized(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "tiny.gguf"
    kanna.convert(folder, out, preset="Q4_K_M")
    found = kanna.inspect(out)
    assert found.made is not None and found.made["gate"] == ""
    assert (found.made["plan"], found.made["source"]) == ("Q4_K_M", "tiny-llama")
    assert sum(found.made["encodings"].values()) == found.num_tensors
    assert not [n for n in found.notes if "already quantized" in n]
    assert any("made by kanna from tiny-llama" in n for n in found.notes)
    digest = hashlib.sha256(out.read_bytes()).hexdigest()
    report = {"format": "kanna.gate/1", "status": "proved", "checks": [{}, {}]}
    beside = tmp_path / "tiny.gguf.gate.json"
    beside.write_text(json.dumps(report | {"files": {"tiny.gguf": digest}}))
    run = CliRunner().invoke(cli, ["inspect", str(out)])
    assert "intact, 2 checks (tiny.gguf.gate.json)" in run.stdout and "q4_k × " in run.stdout
    assert "was not looked at" in (kanna.inspect(out, hash=False).made or {})["gate"]
    for files in ({"tiny.gguf": "0" * 64}, {"/dev/zero": digest}, {}):
        beside.write_text(json.dumps(report | {"files": files}))
        assert (kanna.inspect(out).made or {})["gate"].endswith("about other files than these")
    beside.write_text("[]")
    assert (kanna.inspect(out).made or {})["gate"] == ""


@pytest.mark.parametrize("preset", ["Q4_K_M", "Q8_0", "mlx:q4", "onnx:int4"])
def test_every_verb_says_the_same_bits_per_weight(
    preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`convert`, a plan of it, `fit`, `compare`, `inspect`, and what `verify` shows."""
    monkeypatch.setitem(tiny_models.SMALL, "intermediate_size", 640)
    monkeypatch.setitem(tiny_models.SMALL, "vocab_size", 544)
    source = tmp_path / "tiny"
    tiny_models.make("smollm", source)
    written = kanna.convert(source, tmp_path / "out.gguf", preset=preset, threads=1)
    format = preset.partition(":")[0] if ":" in preset else "gguf"
    fitted = {row.preset: row.bits_per_weight for row in kanna.fit(source, format=format).rows}
    rows = plan_rows(open_source(source), choices([], [preset]), tmp_path, None).rows
    opened = families.load_model(open_source(source))
    said = {
        "dry run": kanna.convert(source, preset=preset, dry_run=True).bits_per_weight,
        "fit": fitted[preset],
        "compare": next(row.bits_per_weight for row in rows if row.name == preset),
    }
    whole = parity.whole_bits(written.paths[0], opened)
    if format == "onnx":  # nothing is read back from one
        assert whole is None and "4.5" in parity.in_words(4.5, whole)
    else:
        said |= {"verify": whole, "inspect": kanna.inspect(written.paths[0]).bits_per_weight}
        assert parity.in_words(2.0, whole).startswith(f"{written.bits_per_weight:.2f} bits per w")
    assert said == pytest.approx(dict.fromkeys(said, written.bits_per_weight), abs=0.005)


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
