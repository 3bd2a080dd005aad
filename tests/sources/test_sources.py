"""What the user may name as a source, and what is refused from the first look at it.

Exit code 1, nothing written.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file

import kanna
from kanna.cli.main import cli
from kanna.sources import open_source

pytest.importorskip("transformers")

WEIGHTS = "model.safetensors"


def change_config(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def pickled(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")


def retyped(name: str, dtype: str) -> Callable[[Path], None]:
    """Says in the header that one tensor has another type, of the same width."""

    def change(folder: Path) -> None:
        data = (folder / WEIGHTS).read_bytes()
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size])
        entry = header[name]
        # Four one-byte values where one of four bytes was.
        entry["dtype"], entry["shape"] = dtype, [entry["shape"][0], entry["shape"][1] * 4]
        text = json.dumps(header).encode()
        (folder / WEIGHTS).write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])

    return change


def misshapen(folder: Path) -> None:
    values = load_file(folder / WEIGHTS)
    name = "model.layers.1.mlp.down_proj.weight"
    values[name] = values[name].reshape(-1, 64)
    save_file(values, folder / WEIGHTS)


def lost_tensor(folder: Path) -> None:
    values = load_file(folder / WEIGHTS)
    del values["model.layers.1.mlp.down_proj.weight"]
    save_file(values, folder / WEIGHTS)


def missing_shard(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "model-00001-of-00002.safetensors")
    index = {
        "weight_map": {
            "a": "model-00001-of-00002.safetensors",
            "b": "model-00002-of-00002.safetensors",
        }
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def truncated(folder: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[: len(data) // 2])


def larger_tokenizer(folder: Path) -> None:
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    tokenizer["model"]["vocab"] = vocabulary | {f"extra{i}": 600 + i for i in range(40)}
    path.write_text(json.dumps(tokenizer))


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "pickled weights": (pickled, "pickled file"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), "no weights"),
    "truncated weights": (truncated, "truncated"),
    "missing shard": (missing_shard, "model-00002-of-00002.safetensors"),
    "lost tensor": (lost_tensor, "model.layers.1.mlp.down_proj.weight"),
    "misshapen tensor": (misshapen, "model.layers.1.mlp.down_proj.weight"),
    "8-bit floats": (
        retyped("model.layers.0.mlp.up_proj.weight", "F8_E4M3"),
        "model.layers.0.mlp.up_proj.weight",
    ),
    "whole numbers": (
        retyped("model.layers.0.mlp.up_proj.weight", "I8"),
        "model.layers.0.mlp.up_proj.weight",
    ),
    "no config": (lambda f: (f / "config.json").unlink(), "no config.json"),
    "config is no JSON": (lambda f: (f / "config.json").write_text("{"), "config.json is not JSON"),
    "config is a list": (
        lambda f: (f / "config.json").write_text("[]"),
        "config.json is not an object",
    ),
    "unknown family": (
        lambda f: change_config(f, architectures=["MartianForCausalLM"]),
        "MartianForCausalLM",
    ),
    "quantized checkpoint": (
        lambda f: change_config(f, quantization_config={"quant_method": "awq"}),
        "awq",
    ),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "tokenizer"),
    "larger tokenizer": (larger_tokenizer, "512"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_folder_is_refused(case: str, folder: Path, tmp_path: Path) -> None:
    change, says = DAMAGE[case]
    change(folder)
    run = CliRunner().invoke(cli, ["convert", str(folder), "-o", str(tmp_path / "out.gguf")])
    assert run.exit_code == 1, run.output
    assert says in run.stderr and "Traceback" not in run.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["tiny"], "nothing is written"


def test_a_folder_is_written_over_only_when_asked(good: Path, tmp_path: Path) -> None:
    """Nothing of the weights that were there stays.

    A stale index or shard would be read as part of the model.
    """
    out = tmp_path / "out"
    kanna.convert(good, out, format="safetensors", encoding="f32", split_max_size=1_000_000)
    assert len(list(out.glob("*.safetensors"))) > 1
    arguments = [
        "convert",
        str(good),
        "-o",
        str(out),
        "--format",
        "safetensors",
        "--encoding",
        "bf16",
        "--quiet",
    ]
    refused = CliRunner().invoke(cli, arguments)
    assert refused.exit_code == 1
    assert "is not empty" in refused.output
    done = CliRunner().invoke(cli, [*arguments, "--overwrite"])
    assert done.exit_code == 0, done.output
    assert [p.name for p in out.glob("*.safetensors*")] == [WEIGHTS]
    assert {t.dtype for t in open_source(out).tensors.values()} == {"bf16"}
    itself = CliRunner().invoke(
        cli, ["convert", str(out), "-o", str(out), "--format", "safetensors", "--overwrite"]
    )
    assert itself.exit_code == 1
    assert "the source itself" in itself.output


def test_shards_give_the_bytes_of_one_file(good: Path, folder: Path, tmp_path: Path) -> None:
    values = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    parts = {f"model-0000{i + 1}-of-00003.safetensors": sorted(values)[i::3] for i in range(3)}
    for part, names in parts.items():
        save_file({n: values[n] for n in names}, folder / part)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {n: part for part, names in parts.items() for n in names}})
    )
    one, many = (
        kanna.convert(f, tmp_path / f"{i}.gguf", dry_run=True) for i, f in enumerate((good, folder))
    )
    assert one.tensors == many.tensors
    made = kanna.convert(folder, tmp_path / "many.gguf", preset="Q4_K_M").paths[0]
    whole = kanna.convert(good, tmp_path / "one.gguf", preset="Q4_K_M").paths[0]
    size = sum(t["bytes"] for t in one.tensors)
    # The provenance names other files; the tensors at the end are the same.
    assert made.read_bytes()[-size:] == whole.read_bytes()[-size:]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("weights.bin", "pickled file"),
        ("weights.pt", "pickled file"),
        ("model.safetensors", "give its folder"),
        ("builtin:gpt5", "builtin:smollm2-135m"),
        ("nowhere", "does not exist"),
        ("ggufs", "folder of GGUF files"),
    ],
)
def test_what_is_no_source_says_what_is(
    given: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if "." in given:
        Path(given).write_bytes(b"\x80\x04K\x01.")
    if given == "ggufs":
        Path(given).mkdir()
        Path(given, "a.gguf").touch()
    run = CliRunner().invoke(cli, ["inspect", given])
    assert run.exit_code == (2 if given == "nowhere" else 1) and says in run.stderr


def test_builtin_is_the_embedded_model(smollm2: Path) -> None:
    source = open_source("builtin:smollm2-135m")
    assert source.path == smollm2 and source.kind == "gguf"
