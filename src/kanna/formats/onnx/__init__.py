"""ONNX folders that onnxruntime-genai loads."""

from __future__ import annotations

import importlib.util
from functools import partial
from pathlib import Path

from kanna._util import extras
from kanna.checks import Check
from kanna.encodings import Encoding
from kanna.encodings.grouped.nbits import parse
from kanna.formats import folder_files
from kanna.formats.base import Format, StoredWeights
from kanna.formats.memory import RuntimeMemory, step_buffers
from kanna.formats.onnx import activations, constants, files
from kanna.formats.process_memory import ProcessMemory, tokenizer_bytes
from kanna.model import Model
from kanna.plan import onnx as presets

# What its process holds for any model, and for each layer, see formats/process_memory.py.
_FIXED, _LAYER = 26_600_000, 1_550_000
_OPENING = 20_000_000
# Names of the embedding: of graphs in float32, and of plans.
_EMBEDDING = ("embed_tokens", "token_embd")


def _carries(encoding: Encoding) -> bool:
    return parse(encoding.name) is not None or encoding.name == "f32"


def _value_bytes(_: Model) -> int:
    return 4  # our graphs compute in float32


def _copied(name: str, encoding: str, size: int) -> float:
    """Codes are multiplied where they lie, and floats as they are packed.

    Rows are looked up in an embedding of float32, so that it stays beside its packed copy.
    """
    return float(size) if encoding == "f32" and _embeds(name) else 0.0


def _copied_opening(name: str, encoding: str, size: int) -> float:
    """An embedding, the largest tensor, is read from its mapped file beside its copies."""
    return _copied(name, encoding, size) + size if _embeds(name) else 0.0


def _embeds(name: str) -> bool:
    return any(embedding in name for embedding in _EMBEDDING)


def _weights(path: Path) -> StoredWeights:
    folder = files.read_folder(path)
    sizes: dict[str, int] = {}
    graph = files.load(folder.graph).graph
    for tensor in constants.tensors(graph):
        external = {e.key: e.value for e in tensor.external_data if tensor.data_location == 1}
        sizes[tensor.name] = int(external.get("length", 0)) or tensor.ByteSize()
    return StoredWeights(
        sizes=sizes,
        nbytes=folder.nbytes,
        activation_bits=activations.code_bits(graph),
        rounded_inputs=activations.rounded_inputs(graph),
    )


def _check_files(path: Path, context: int | None) -> Check:
    """The files are complete and inside the folder, and it has that context."""
    if importlib.util.find_spec("onnx") is None:
        return Check(name="files", ok=None, detail=f"onnx is not here: {extras.command('onnx')}")
    folder_files.named(path, files.GENAI)
    folder = files.read_folder(path)
    folder_files.named(path, "tokenizer.json")
    own = folder.model.get("context_length")
    # Fixed shapes have the context that they were made for.
    if own != context and folder.prefill is None:
        return Check(name="files", ok=False, detail=f"a context of {own} tokens, not {context}")
    detail = (
        f"{folder.graph.name} and {len(folder.data)} with its weights, "
        f"all of them inside the folder; context of {own} tokens"
    )
    return Check(name="files", ok=True, detail=detail)


FORMAT = Format(
    name="onnx",
    title="ONNX",
    opens=files.is_onnx,
    carries=_carries,
    runtime="onnx",
    runtime_title="onnxruntime",
    build=partial(extras.installed, "onnxruntime"),
    presets=presets.PRESETS,
    default_preset=presets.DEFAULT,
    compared_presets=("w8", "int4-mixed", "int4"),
    whole_presets={"bf16": presets.WHOLE, "f16": presets.WHOLE},
    memory=RuntimeMemory(
        value_bytes=_value_bytes,
        buffers=step_buffers(_value_bytes),
        windowed=False,  # see build_worker.py
        process=ProcessMemory(
            fixed=_FIXED,
            layer=_LAYER,
            tokenizer=tokenizer_bytes,
            copied=_copied,
            opening=_OPENING,
            copied_opening=_copied_opening,
        ),
    ),
    weights=_weights,
    check_files=_check_files,
    check_names=files.check_names,
    size_note="file sizes are of weights and scales; the graph and its tables come on top",
    symbol=((-0.89, -0.89), (0.89, -0.89), (0.89, 0.89), (-0.89, 0.89)),
)
