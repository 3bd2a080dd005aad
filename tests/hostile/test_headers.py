"""Numbers in headers are lies until they are proved: wrong types, sizes that no file holds."""

from __future__ import annotations

import json
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import tiny_models
from helpers.making import entry, gguf_bytes, info, safetensors_bytes, text

import kanna
from kanna.errors import FormatError, KannaError, SourceError
from kanna.formats import gguf, safetensors
from kanna.formats.gguf import keys
from kanna.formats.onnx import files as onnx_files
from kanna.formats.text_files import parse_json, repeated_keys
from kanna.serving.engines import mlx, onnx
from kanna.serving.engines.base import EngineConfig

BUDGET = 64_000_000
"""Bytes that a small file may take, whatever it claims."""
ODD = {
    "text": struct.pack("<I", 8) + text("abc"),
    "no text": struct.pack("<IQ", 8, 1) + b"\xff",
    "negative": struct.pack("<Ii", 5, -1),
    "huge": struct.pack("<IQ", 10, (1 << 64) - 1),
    "nan": struct.pack("<If", 6, float("nan")),
    "endless": struct.pack("<Id", 12, float("inf")),
    "true": struct.pack("<IB", 7, 1),
    "numbers": struct.pack("<IIQ3i", 9, 5, 3, 1, -2, 3),
    "texts": struct.pack("<IIQ", 9, 8, 1) + text("a"),
    "nothing": struct.pack("<IIQ", 9, 5, 0),
}
KEYS = sorted(
    {*keys.GENERAL, *(f"llama.{name}" for name in keys.OF_ARCHITECTURE)}
    | {"llama.attention.layer_norm_rms_epsilon", "general.sampling.temp", "general.name"}
    | {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.add_bos_token", "kanna.plan"}
)


def lying(path: Path, **claims: int) -> Path:
    """A GGUF of one small tensor whose metadata claims more."""
    sizes = {"block_count": 1, "attention.head_count": 1, "embedding_length": 8} | {
        name.replace("__", "."): value for name, value in claims.items()
    }
    entries = [text("general.architecture") + struct.pack("<I", 8) + text("llama")]
    entries += [text(f"llama.{k}") + struct.pack("<II", 4, v) for k, v in sizes.items()]
    path.write_bytes(
        gguf_bytes(kvs=tuple(entries), infos=(info("token_embd.weight", [8, 4]),), data=bytes(128))
    )
    return path


def refused(read: Callable[[], object], says: str = "") -> None:
    tracemalloc.start()
    try:
        with pytest.raises(KannaError) as error:
            read()
        assert tracemalloc.get_traced_memory()[1] < BUDGET
    finally:
        tracemalloc.stop()
    assert says in str(error.value)
    assert error.value.expected or error.value.todo


@pytest.mark.parametrize("odd", ODD)
def test_a_key_of_another_type_is_refused_by_name(odd: str, tmp_path: Path) -> None:
    """Or it is of its type after all, and then every reader can rely on it."""
    path = tmp_path / "odd.gguf"
    refusals = 0
    for key in KEYS:
        entries = {"general.architecture": struct.pack("<I", 8) + text("llama"), key: ODD[odd]}
        body = tuple(text(name) + value for name, value in entries.items())
        path.write_bytes(gguf_bytes(kvs=body, infos=(info("a", [8]),), data=bytes(32)))
        try:
            kind = keys.kind_of(key, "llama")
            assert kind is not None
            assert kind.convert(gguf.read(path).metadata.get(key)) or key.startswith("split.")
        except FormatError as error:
            refusals += 1
            assert path.name in str(error) and (key in str(error) or key.startswith("split."))
    assert refusals > len(KEYS) / 4


@pytest.mark.parametrize(
    "name",
    [
        "block_count",
        "embedding_length",
        "feed_forward_length",
        "attention__head_count",
        "attention__head_count_kv",
        "attention__key_length",
        "attention__value_length",
        "expert_count",
        "rope__dimension_count",
    ],
)
@pytest.mark.parametrize("size", [100_000, 200_000_000, (1 << 32) - 1])
def test_sizes_that_the_file_cannot_have(name: str, size: int, tmp_path: Path) -> None:
    path = lying(tmp_path / "lying.gguf", **{name: size})
    for verb in (lambda: kanna.fit(path, memory="1GB"), lambda: kanna.inspect(path, hash=False)):
        refused(verb, name.replace("__", "."))


def test_a_cache_is_not_what_the_metadata_claims(tmp_path: Path) -> None:
    """A width that some tensor of the file has, and the embedding has not."""
    path = lying(tmp_path / "lying.gguf", embedding_length=16)
    refused(lambda: kanna.fit(path, memory="1GB"), "token_embd.weight has shape")


def test_safetensors_of_many_axes(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors_bytes({"a": entry("F32", [1 << 61] * 200_000, 0, 4)}, bytes(4)))
    refused(lambda: safetensors.read_file(path), "200000 axes")


def test_a_header_of_too_many_tensors(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    one = b'"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
    path.write_bytes(safetensors_bytes(b"{" + b",".join(one % i for i in range(70_000)) + b"}"))
    refused(lambda: safetensors.read_file(path), "tensors")


def test_json_that_takes_more_than_its_bytes() -> None:
    with pytest.raises(FormatError, match="objects and lists"):
        parse_json("[" + "{}," * 2_000_000 + "0]", "config.json")


def test_keys_that_repeat_take_no_time() -> None:
    repeated = ",".join(f'"{i}":1,"{i}":2' for i in range(30_000))
    assert len(repeated_keys("{" + repeated + "}")) == 30_000


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "tiny"
    tiny_models.make("llama", folder)
    return folder


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_hidden_layers", 200_000_000),
        ("vocab_size", (1 << 31) - 1),
        ("head_dim", 1 << 30),
        ("hidden_size", 1 << 30),
        ("intermediate_size", 1 << 30),
        ("text_config", "abc"),
        ("text_config", [1]),
        ("model_type", ["llama"]),
        ("max_position_embeddings", float("nan")),
        ("num_attention_heads", True),
        ("sliding_window", {"a": 1}),
        ("rope_scaling", {"rope_type": "llama3", "factor": 0}),
        ("rope_scaling", {"rope_type": ["llama3"]}),
    ],
)
def test_fields_of_a_config(field: str, value: Any, source: Path, tmp_path: Path) -> None:
    for path in source.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = tmp_path / "config.json"
    family = {"architectures": ["MistralForCausalLM"]} if field == "sliding_window" else {}
    changed = json.loads(config.read_text()) | {field: value} | family
    changed.pop("model_type", None) if family else None
    config.write_text(json.dumps(changed))
    refused(lambda: kanna.fit(tmp_path, memory="1GB"))


def test_an_id_beyond_any_vocabulary(source: Path, tmp_path: Path) -> None:
    for path in source.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    tokenizer = json.loads((tmp_path / "tokenizer.json").read_text())
    tokenizer["added_tokens"].append({"id": 10**12, "content": "x", "special": True})
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    refused(lambda: kanna.fit(tmp_path, memory="1GB"), "1000000000000")


DECODER = {
    "filename": "model.onnx",
    "head_size": 8,
    "num_key_value_heads": 1,
    "num_hidden_layers": 2,
}
GENAI = {"context_length": 64, "vocab_size": 32, "decoder": DECODER}


@pytest.mark.parametrize("value", ["abc", -1, 0.5, True, [1], {"a": 1}, 10**400, float("nan")])
def test_an_engine_is_not_sized_by_odd_numbers(value: Any, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"")
    config = EngineConfig(engine="onnx", path=str(tmp_path), name="m")
    path = tmp_path / "genai_config.json"
    path.write_text(json.dumps({"model": GENAI}))
    assert onnx.memory(config).cache > 0
    for field in ("head_size", "num_key_value_heads", "num_hidden_layers"):
        path.write_text(json.dumps({"model": {**GENAI, "decoder": {**DECODER, field: value}}}))
        refused(lambda: onnx.memory(config), field)
        refused(lambda: onnx_files.read_folder(tmp_path), field)
    folder = tmp_path / "mlx"
    folder.mkdir()
    for field in ("num_attention_heads", "num_hidden_layers", "vocab_size", "text_config"):
        if field == "text_config" and isinstance(value, dict):
            continue
        (folder / "config.json").write_text(json.dumps({"hidden_size": 8, field: value}))
        refused(lambda: mlx.memory(EngineConfig(engine="mlx", path=str(folder), name="m")), field)


def test_errors_are_those_of_sources() -> None:
    """Who catches what a source cannot be used for catches these too."""
    assert issubclass(FormatError, SourceError)
