"""What is fuzzed: a good file each, how it is damaged, and what reads it in kanna."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from helpers import picture_files, tiny_models
from helpers.making import info

import kanna
from fuzz import mutation
from kanna import encodings, families, provenance
from kanna.calibration import imatrix, statistics
from kanna.errors import KannaError
from kanna.families.views import Computed
from kanna.fleet import manifest as fleet_manifest
from kanna.fleet.device.versions import DeviceFolder
from kanna.formats import gguf, openvino, pictures, safetensors
from kanna.formats import onnx as onnx_format
from kanna.formats.gguf.layout import pack_metadata
from kanna.formats.memory import buffer_bytes, cache_bytes
from kanna.formats.onnx import files as onnx_files
from kanna.formats.openvino import ir
from kanna.formats.openvino.weights import Weights
from kanna.hardware import encoding_speed
from kanna.hardware.encoding_speed import EncodingSpeeds
from kanna.hardware.targets import reading
from kanna.model import ValueType, array, string, u32
from kanna.packaging import artefact
from kanna.plan.types import TensorPlan
from kanna.runtimes import folder_text, llamacpp
from kanna.serving.engines import mlx as mlx_engine
from kanna.serving.engines import onnx as onnx_engine
from kanna.serving.engines.base import EngineConfig
from kanna.sources import adapter, open_source


@dataclass(frozen=True, kw_only=True)
class Target:
    """One kind of file.

    Attributes:
        path: Where the damaged file goes; its neighbours are good.
        damage: A damaged file, by chance.
        read: Everything that kanna reads it with.
        good: A file as it should be.
        mutate: Another file from one, by chance, for inputs that coverage guides.
        zeros: How many follow the input in the file; they are never written.
    """

    path: Path
    damage: Callable[[Random], bytes]
    read: Callable[[], object]
    good: bytes = b""
    mutate: Callable[[bytes, Random], bytes] = mutation.mutated_bytes
    zeros: int = 0

    def run(self, data: bytes) -> None:
        """Read a damaged file: nothing happens, or a KannaError is raised."""
        self.path.write_bytes(data)
        if self.zeros:
            os.truncate(self.path, len(data) + self.zeros)
        with suppress(KannaError):
            self.read()


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
        **_onnx(folder),
        **_graph(folder),
        **_mlx(folder, source),
        **_openvino(folder),
        **_own_files(folder),
    }
    return dict(sorted(made.items()))


def _all(*readers: Callable[[], object]) -> Callable[[], None]:
    """Every reader in turn, whatever those before it refuse."""

    def read() -> None:
        for reader in readers:
            with suppress(KannaError):
                reader()

    return read


def _json(path: Path, *readers: Callable[[], object], good: Any = None) -> Target:
    data = path.read_bytes() if good is None else json.dumps(good).encode()
    return Target(
        path=path,
        damage=lambda random: mutation.damaged_json(data, random),
        read=_all(*readers),
        good=data,
        mutate=mutation.mutated_json,
    )


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
            read=_all(inspect, read, check),
            good=header,
            zeros=nbytes,
        ),
        "gguf-bytes": Target(
            path=path,
            damage=lambda r: mutation.damaged_bytes(header, r, 6000),
            read=_all(inspect, read),
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
        "index": _json(
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
        target = _json(source / name, inspect, load, good=good)
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


def _engine(folder: Path, kind: str) -> EngineConfig:
    return EngineConfig(
        name="m", engine=kind, path=str(folder), role="generate", key="k", context=64, slots=1
    )


def _onnx(folder: Path) -> dict[str, Target]:
    place = folder / "onnx"
    place.mkdir()
    (place / "model.onnx").write_bytes(b"")
    good = {
        "model": {
            "type": "llama",
            "context_length": 64,
            "vocab_size": 32,
            "eos_token_id": [1],
            "decoder": {
                "filename": "model.onnx",
                "head_size": 8,
                "hidden_size": 16,
                "num_attention_heads": 2,
                "num_key_value_heads": 1,
                "num_hidden_layers": 2,
                "inputs": {"input_ids": "input_ids"},
                "outputs": {"logits": "logits"},
            },
        },
        "search": {"max_length": 64},
    }
    return {
        "genai_config.json": _json(
            place / "genai_config.json",
            lambda: onnx_files.read_folder(place),
            lambda: onnx_engine.memory(_engine(place, "onnx")),
            lambda: artefact.open_artefact(place),
            good=good,
        )
    }


def _graph(folder: Path) -> dict[str, Target]:
    """A model.onnx with constants of every kind beside its graph."""
    import onnx
    from onnx import helper

    place = folder / "graph"
    place.mkdir()
    (place / "model.onnx.data").write_bytes(bytes(64))

    def constant(name: str) -> Any:
        tensor = onnx.TensorProto(name=name, data_type=1, dims=[4, 4], data_location=1)
        for key, value in (("location", "model.onnx.data"), ("offset", "0"), ("length", "64")):
            tensor.external_data.add(key=key, value=value)
        return tensor

    inner = helper.make_graph([], "inner", [], [], [constant("c")])
    nodes = [
        helper.make_node("Add", ["a", "w"], ["b"], name="add", value=constant("v")),
        helper.make_node("If", ["b"], ["d"], then_branch=inner, else_branch=inner),
        helper.make_node(
            "Greater", ["d", "/c/4096"], ["e"], name="/model/rope_caches_subgraph/Greater"
        ),
    ]
    value = helper.make_tensor_value_info("e", 1, [1, 4])
    graph = helper.make_graph(nodes, "g", [value], [value], [constant("w")])
    sparse = graph.sparse_initializer.add()
    sparse.values.CopyFrom(constant("s"))
    sparse.indices.CopyFrom(constant("i"))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    good = model.SerializeToString()
    path = place / "model.onnx"
    weights = onnx_format.FORMAT.weights
    assert weights is not None
    return {
        "model.onnx": Target(
            path=path,
            damage=lambda random: mutation.damaged_bytes(good, random, len(good)),
            read=_all(
                lambda: onnx_files.read_folder(place),
                lambda: weights(place),
                lambda: onnx_files.check_names(place, graphs=True),
                lambda: onnx_files.rope_edge(path),
            ),
            good=good,
        )
    }


def _mlx(folder: Path, source: Path) -> dict[str, Target]:
    place = folder / "mlx"
    kanna.convert(source, place, preset="mlx:q4")
    config = place / "config.json"

    def load() -> object:
        return families.load_model(open_source(place))

    return {
        "mlx": _json(
            config,
            load,
            lambda: mlx_engine.memory(_engine(place, "mlx")),
            lambda: folder_text.trained_context(place),
            lambda: artefact.open_artefact(place),
            lambda: kanna.inspect(place, hash=False).to_dict(),
        )
    }


def _openvino(folder: Path) -> dict[str, Target]:
    """A graph with matrices of every kind, and the file of their values."""
    place = folder / "openvino"
    place.mkdir()
    rows = np.ones((3, 64), np.float32)
    entries = {
        f"{name}.weight": TensorPlan(
            name=f"{name}.weight",
            tensor=Computed(f"{name}.weight", rows),
            encoding=encodings.get(name),
            method="nearest",
        )
        for name in ("nbits4g64", "nbits4g32s", "nbits8g32", "f16", "f32")
    }
    graph, weights = ir.Graph(), Weights(entries)
    for name in entries:
        weights(graph, name)
    file = weights.lay_out(bytes(graph.small))
    (place / openvino.WEIGHTS).write_bytes(bytes(file.total_bytes))
    good = ir.to_xml(graph, "small", file.places, {"kanna": {"version": "1"}})

    def read() -> None:
        for tensor in openvino.read_folder(place).tensors.values():
            tensor.rows(0, min(2, tensor.shape[0]))

    return {
        "openvino_model.xml": Target(
            path=place / openvino.MODEL,
            damage=lambda random: mutation.damaged_bytes(good, random, len(good)),
            read=read,
            good=good,
        )
    }


def _own_files(folder: Path) -> dict[str, Target]:
    place = folder / "own"
    place.mkdir()
    dat = (
        struct.pack("<i", 1)
        + struct.pack("<i", 3)
        + b"a.b"
        + struct.pack("<ii4f", 2, 4, 1, 2, 3, 4)
    )
    dat += struct.pack("<ii", 7, 3) + b"txt"
    matrix, sums = place / "i.gguf", np.ones((1, 4), np.float32)
    from kanna.families.views import Computed

    f32 = encodings.get("f32")
    entries = [
        TensorPlan(name=n, tensor=Computed(n, sums), encoding=f32, method="nearest")
        for n in ("a.in_sum2", "a.counts")
    ]
    metadata = {
        "general.type": string("imatrix"),
        "imatrix.datasets": array(["a"], ValueType.STR),
        "imatrix.chunk_count": u32(1),
    }
    gguf.write(matrix, metadata=metadata, tensors=entries)
    whole = matrix.read_bytes()
    site = {"file": "a.safetensors", "tensors": ["t"], "columns": 4, "block": 4, "shrink": 0.5}
    index = {
        "version": statistics.VERSION,
        "tokens": 8,
        "window": 4,
        "text": {"name": "a"},
        "sites": {"s": site},
    }
    own = {"kanna.version": "1", "kanna.source.sha256": "{}", "kanna.plan.encodings": "{}"}
    dat_path = place / "i.dat"

    def damaged(good: bytes) -> Callable[[Random], bytes]:
        return lambda random: mutation.damaged_bytes(good, random, len(good))

    def described() -> object:
        return artefact.provenance_of(
            {k: string(v) for k, v in provenance.of_folder(place).items()}
        )

    cat = picture_files.png(np.arange(300, dtype=np.uint8).reshape(10, 10, 3))
    return {
        "imatrix-dat": Target(
            path=dat_path, damage=damaged(dat), read=lambda: imatrix.read(dat_path), good=dat
        ),
        "imatrix-gguf": Target(
            path=matrix, damage=damaged(whole), read=lambda: imatrix.read(matrix), good=whole
        ),
        "statistics": _json(place / "index.json", lambda: statistics.read(place), good=index),
        "kanna.json": _json(place / provenance.FILE, described, good=own),
        "picture": Target(
            path=place / "cat.png",
            damage=damaged(cat),
            read=lambda: pictures.opened(place / "cat.png"),
            good=cat,
        ),
        "adapter_config.json": _json(
            place / adapter.CONFIG,
            lambda: adapter.base_of(place / adapter.CONFIG),
            good={"base_model_name_or_path": "a/b", "r": 4},
        ),
        "fleet-manifest.json": _json(
            place / "fleet-manifest.json",
            lambda: fleet_manifest.read((place / "fleet-manifest.json").read_bytes(), "manifest"),
            good={
                "format": fleet_manifest.FORMAT,
                "name": "a",
                "sequence": 1,
                "artefact": "a/m.gguf",
                "files": [
                    {"path": path, "sha256": "a" * 64, "size": 1}
                    for path in ("a/m.gguf", "selftest.json")
                ],
            },
        ),
        "agent.json": _json(
            place / "agent.json",
            lambda: DeviceFolder(place).memory(),
            good={
                "highest": 3,
                "number": 2,
                "wanted": "a" * 64,
                "outcome": "passed",
                "reported": 1,
            },
        ),
        "device.yaml": _json(
            place / "device.yaml", lambda: reading.read(place / "device.yaml"), good=_device()
        ),
        "speeds.json": _json(
            place / "speeds.json",
            lambda: encoding_speed.read(place / "speeds.json"),
            good=EncodingSpeeds(
                machine="a board",
                token=200.0,
                generation={"q4_0": 300.0},
                spread={"q4_0": (290.0, 310.0)},
            ).to_dict(),
        ),
    }


def _device() -> dict[str, Any]:
    """A target profile; JSON is YAML."""

    def figure(value: object) -> dict[str, object]:
        return {"value": value, "basis": "measured", "source": "a desk"}

    cpu = {"operators": "CPU", "efficiency": figure(0.5), "error": figure(0.2)}
    return {
        "title": "Board",
        "memory": {"2gb": {"total": figure("2GiB"), "available": figure("1GiB")}},
        "bandwidth": figure("10GB"),
        "cores": figure(4),
        "context": figure(2048),
        "backends": {"cpu": cpu | {"memory": figure("1GB"), "gigaflops": figure(9)}},
    }
