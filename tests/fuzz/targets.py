"""What is fuzzed: a good file each, how it is damaged, and what reads it in kanna."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from helpers import tiny_models
from helpers.making import info

import kanna
from fuzz import mutation
from fuzz.folder_targets import graph, mlx_folder, onnx_folder, openvino_folder
from fuzz.own_targets import own_files
from fuzz.target import Target, every, json_file
from kanna import encodings, families
from kanna.errors import KannaError
from kanna.formats import gguf, safetensors
from kanna.formats.gguf.layout import pack_metadata
from kanna.formats.memory import buffer_bytes, cache_bytes
from kanna.runtimes import llamacpp
from kanna.sources import open_source


def make(folder: Path) -> dict[str, Target]:
    """All targets by name, with their files in a folder that is empty.

    Args:
        folder: Best in memory: every input is written.
    """
    source = folder / "source"
    tiny_models.make("llama", source)
    made = {
        **_gguf(folder, source),
        **_safetensors(folder),
        **_source_files(source),
        **onnx_folder(folder),
        **graph(folder),
        **mlx_folder(folder, source),
        **openvino_folder(folder),
        **own_files(folder),
    }
    return dict(sorted(made.items()))


def _gguf(folder: Path, source: Path) -> dict[str, Target]:
    good = folder / "good.gguf"
    kanna.convert(source, good, preset="F16")
    file = gguf.read(good)
    parts = {k: pack_metadata({k: v})[8 + len(k) :] for k, v in file.metadata.items()}
    infos, nbytes = b"", 0
    for tensor in file.tensors.values():
        kind = encodings.get(tensor.dtype).ggml_type or 0
        infos += info(tensor.name, list(tensor.shape[::-1]), kind, nbytes)
        nbytes += -(-tensor.nbytes // 32) * 32
    rest = struct.pack("<Q", len(file.tensors)) + infos
    path = folder / "damaged.gguf"

    def read() -> None:
        opened = open_source(path)
        model = families.load_model(opened)
        with suppress(KannaError):
            cache_bytes(model, 4096)
            buffer_bytes(model, 4096)
        families.to_hf(model)

    def inspect() -> object:
        return kanna.inspect(path, hash=False).to_dict()

    check = lambda: llamacpp.check_header(path)  # noqa: E731
    whole = good.read_bytes()
    header = whole[: len(whole) - nbytes]
    return {
        "gguf": Target(
            path=path,
            damage=lambda r: mutation.damaged_gguf(parts, rest, r),
            read=every(inspect, read, check),
            good=header,
            zeros=nbytes,
        ),
        "gguf-bytes": Target(
            path=path,
            damage=lambda r: mutation.damaged_bytes(header, r, 6000),
            read=every(inspect, read),
            good=header,
            zeros=nbytes,
        ),
    }


def _safetensors(folder: Path) -> dict[str, Target]:
    path = folder / "damaged.safetensors"
    header = {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 32]},
        "b": {"dtype": "U32", "shape": [2], "data_offsets": [32, 40]},
    }
    good = json.dumps(header).encode()
    whole = struct.pack("<Q", len(good)) + good + bytes(40)

    def damage(random: Random) -> bytes:
        if random.random() < 0.5:
            return mutation.damaged_bytes(whole, random, len(whole))
        body = mutation.damaged_json(good, random)
        return struct.pack("<Q", len(body)) + body + bytes(40)

    reader = safetensors.read_file
    index = {"metadata": {"total_size": 8}, "weight_map": {"a": "x-1.safetensors", "b": "y"}}
    shards = folder / "index"
    shards.mkdir()
    return {
        "safetensors": Target(path=path, damage=damage, read=lambda: reader(path), good=whole),
        "index": json_file(
            shards / "model.safetensors.index.json",
            lambda: safetensors.read_folder(shards),
            good=index,
        ),
    }


def _source_files(source: Path) -> dict[str, Target]:
    """Files of a Hugging Face folder; the others stay as they are."""
    targets: dict[str, Target] = {}

    def load() -> object:
        opened = open_source(source)
        families.check(opened)
        return families.load_model(opened)

    def inspect() -> object:
        return kanna.inspect(source, hash=False).to_dict()

    extra: Mapping[str, Any] = {
        "generation_config.json": {
            "eos_token_id": [1, 2],
            "temperature": 0.5,
            "top_k": 4,
            "suppress_tokens": [3],
            "stop_strings": ["a"],
        },
        "special_tokens_map.json": {"eos_token": {"content": "</s>"}, "pad_token": "</s>"},
        "added_tokens.json": {"<a>": 3},
    }
    rope = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    config = json.loads((source / "config.json").read_text())
    # Neighbours that are absent stay so: each is there only while it is fuzzed.
    for name, good in {
        **extra,
        "config.json": {**config, "rope_scaling": rope, "head_dim": None, "sliding_window": 8},
        "tokenizer.json": None,
        "tokenizer_config.json": None,
    }.items():
        target = json_file(source / name, inspect, load, good=good)
        original = target.path.read_bytes() if target.path.exists() else None
        targets[name] = replace(target, read=_restored(target, original))
    return targets


def _restored(target: Target, original: bytes | None) -> Callable[[], None]:
    """Reads, and then puts back the file that was there."""

    def read() -> None:
        try:
            target.read()
        finally:
            if original is None:
                target.path.unlink(missing_ok=True)
            else:
                target.path.write_bytes(original)

    return read
