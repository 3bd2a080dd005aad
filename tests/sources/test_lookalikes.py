"""Files that are not what their names say, and folders that hold more than one model.

Each is read as transformers reads it and the rest is said, or refused by its true name.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from kanna.conversion import ConversionRequest, convert
from kanna.errors import KannaError
from kanna.families import load_model
from kanna.formats import gguf
from kanna.sources import open_source

pytest.importorskip("transformers")

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'a' * 64}\nsize 500000\n"
UP = "model.layers.0.mlp.up_proj.weight"
F32 = ConversionRequest(encoding="f32")


def config(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def text(name: str, content: str | bytes) -> Callable[[Path], object]:
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(data)


def recoded(encoding: str, extra: str = "") -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        content = (folder / "config.json").read_text().replace("{", "{" + extra, 1)
        (folder / "config.json").write_bytes(content.encode(encoding))

    return change


def edited(old: str, new: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        content = path.read_text()
        assert old in content
        path.write_text(content.replace(old, new, 1))

    return change


def retyped(dtype: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        values = load_file(folder / WEIGHTS)
        values[UP] = values[UP].astype(dtype)
        save_file(values, folder / WEIGHTS)

    return change


def sharded(folder: Path, parts: int = 2, index: bool = True) -> dict[str, str]:
    """The weights as shards; the index's map."""
    values = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    places = {
        n: f"model-{1 + i % parts:05}-of-{parts:05}.safetensors" for i, n in enumerate(values)
    }
    for file in set(places.values()):
        save_file({n: v for n, v in values.items() if places[n] == file}, folder / file)
    if index:
        (folder / INDEX).write_text(json.dumps({"weight_map": places}))
    return places


def index_of_another(folder: Path) -> None:
    places = sharded(folder)
    (folder / INDEX).write_text(
        json.dumps({"weight_map": places | {"model.extra": "model-00001-of-00002.safetensors"}})
    )


def lost_shard(folder: Path) -> None:
    sharded(folder, index=False)
    (folder / "model-00002-of-00002.safetensors").unlink()


def two_sets(folder: Path) -> None:
    sharded(folder, index=False)
    shutil.copy(
        folder / "model-00001-of-00002.safetensors", folder / "model-00001-of-00003.safetensors"
    )


def adapter(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    add_adapter(folder)


def add_adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "owner/base"}')
    lora = {"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": np.zeros((4, 8))}
    save_file(lora, folder / "adapter_model.safetensors")


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "weights are a pointer": (text(WEIGHTS, POINTER), "git-lfs"),
    "config is a pointer": (text("config.json", POINTER), "git-lfs"),
    "tokenizer is a pointer": (text("tokenizer.json", POINTER), "git-lfs"),
    "template is a pointer": (text("chat_template.jinja", POINTER), "git-lfs"),
    "weights are a page": (text(WEIGHTS, "<!DOCTYPE html><html></html>"), "web page"),
    "config is a page": (text("config.json", "<html></html>"), "web page"),
    "UTF-16": (recoded("utf-16"), "UTF-16"),
    "UTF-16 without a mark": (recoded("utf-16-le"), "UTF-16"),
    "a byte order mark": (recoded("utf-8-sig"), "byte order mark"),
    "Latin-1": (recoded("latin-1", '"by": "café",'), "not UTF-8"),
    "a comma too many": (edited("{", "{,"), "line 1"),
    "a comma at the end": (lambda f: (f / "config.json").write_text('{"a": 1,}'), "not JSON"),
    "not a number": (lambda f: config(f, rms_norm_eps=float("nan")), "rms_norm_eps"),
    "infinite": (lambda f: config(f, hidden_size=float("inf")), "hidden_size"),
    "too large for a float": (lambda f: config(f, rms_norm_eps=10**400), "rms_norm_eps"),
    "adapter beside a config": (adapter, "LoRA adapter of owner/base"),
    "bool values": (retyped("bool"), UP),
    "whole numbers": (retyped("int8"), UP),
    "64-bit whole numbers": (retyped("int64"), UP),
    "a lost shard without an index": (lost_shard, "model-00002-of-00002.safetensors"),
    "shards of two saves": (two_sets, "2 sets"),
    "an index of other shards": (index_of_another, "model.extra"),
    "architectures are a number": (lambda f: config(f, architectures=5), "architectures = 5"),
    "architectures of a number": (lambda f: config(f, architectures=[5]), "architectures = [5]"),
    "architectures of two families": (
        lambda f: config(f, architectures=["LlamaForCausalLM", "Qwen2ForCausalLM"]),
        "several families",
    ),
    "another model type": (lambda f: config(f, model_type="qwen2"), "another family"),
    "neither architecture nor type": (
        lambda f: config(f, architectures=None, model_type=None),
        "neither architectures nor a model_type",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_model_is_named(case: str, folder: Path, tmp_path: Path) -> None:
    change, says = REFUSED[case]
    change(folder)
    with pytest.raises(KannaError) as raised:
        convert(folder, tmp_path / "out.gguf", F32)
    assert says in raised.value.found, raised.value.found
    assert [p.name for p in tmp_path.iterdir()] == ["tiny"], "nothing is written"


def stale_index(folder: Path) -> None:
    (folder / INDEX).write_text('{"weight_map": {"a": "model-00001-of-00009.safetensors"}}')


def stale_shards(folder: Path) -> None:
    kept = (folder / WEIGHTS).read_bytes()
    sharded(folder)
    for path in folder.glob("model-*"):
        save_file({n: v + 1 for n, v in load_file(path).items()}, path)
    (folder / WEIGHTS).write_bytes(kept)


def another_shard(folder: Path) -> None:
    sharded(folder)
    save_file({"b": np.zeros(4, np.float32)}, folder / "model-00003-of-00003.safetensors")


READ: dict[str, tuple[Callable[[Path], object], str]] = {
    "an index of another save": (stale_index, "not used"),
    "an index and shards of another save": (stale_shards, "not used"),
    "a malformed index": (text(INDEX, "{"), "malformed"),
    "a shard no index names": (another_shard, "model-00003-of-00003.safetensors"),
    "an adapter beside the model": (add_adapter, "LoRA adapter of owner/base"),
    "shards without an index": (lambda f: sharded(f, index=False), ""),
    "double precision": (retyped("float64"), ""),
    "no architectures": (lambda f: config(f, architectures=None), ""),
    "no list of architectures": (lambda f: config(f, architectures="LlamaForCausalLM"), ""),
    "keys twice": (edited("{", '{"vocab_size": 3,'), "'vocab_size' more than once"),
}


@pytest.mark.parametrize("case", READ)
def test_what_transformers_reads_is_read_as_it_does(
    case: str, folder: Path, good: Path, tmp_path: Path
) -> None:
    change, says = READ[case]
    change(folder)
    result = convert(folder, tmp_path / "out.gguf", F32)
    assert not says or any(says in note for note in result.notes), result.notes
    written = gguf.read(tmp_path / "out.gguf")
    for name, tensor in load_model(open_source(good)).tensors.items():
        rows = written.tensors[name].rows(0, 1)
        assert np.array_equal(rows, tensor.rows(0, 1)), name


def test_a_gguf_that_is_a_pointer_or_no_model_is_named(tmp_path: Path) -> None:
    from kanna.model import string

    (tmp_path / "a.gguf").write_text(POINTER)
    for kind in ("adapter", "imatrix"):
        gguf.write(tmp_path / f"{kind}.gguf", metadata={"general.type": string(kind)}, tensors=[])
    for name, says in (("a", "git-lfs"), ("adapter", "LoRA adapter"), ("imatrix", "importance")):
        with pytest.raises(KannaError, match=says):
            open_source(tmp_path / f"{name}.gguf")
