"""OpenVINO folders: a graph in IR and its weights, as openvino-genai loads them."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from kanna import encodings
from kanna._util import extras
from kanna.encodings import Encoding
from kanna.formats.base import Format, StoredWeights
from kanna.formats.memory import RuntimeMemory, key_length, step_buffers
from kanna.formats.openvino import graphs, tokenizers, weights
from kanna.formats.openvino.graphs import MODEL, WEIGHTS
from kanna.formats.openvino.read import read_folder
from kanna.formats.process_memory import ProcessMemory, tokenizer_bytes
from kanna.model import Model
from kanna.plan import openvino as presets

__all__ = ["FORMAT", "MODEL", "SCALES_BYTES", "WEIGHTS", "read_folder"]

SCALES_BYTES = 8
"""Bytes of the scale and the zero of a head's keys, or of its values, of one token."""

# What its process holds for any model, and for each layer, see formats/process_memory.py.
_FIXED, _LAYER = 43_000_000, 1_850_000
# Bytes of a layer's weight in memory ÷ in the file, beside the file itself, which stays mapped: in
# the order that kernels read, and as float32 where they take it.
_COPIES = {16: 2.0, 8: 1.6, 4: 1.4}
# What a product with packed weights costs beside: a kernel that unpacks them.
_UNPACKING, _UNPACKED_BITS = 310_000, 8
# Of a gate in float32, whose activation is part of its product: other products are packed once,
# for all lengths of a text; these for a token, for a short text and for a long one.
_GATES, _GATE_COPIES = "gate_proj", 3.0


def _opens(path: Path) -> bool:
    return path.is_dir() and (path / MODEL).is_file()


def _carries(encoding: Encoding) -> bool:
    return weights.holds(encoding.name)


def _cache_value_bytes(model: Model) -> float:
    """A byte on a CPU, and its share of what a head has of one token beside.

    Where scores have a cap, a number is kept in float32.
    """
    if model.meta("{arch}.attn_logit_softcapping"):
        return 4
    return 1 + SCALES_BYTES / max(1, key_length(model))


def _value_bytes(_: Model) -> int:
    return 4


def _copied(name: str, encoding: str, size: int) -> float:
    """A copy of every weight, larger in layers."""
    if ".layers." not in name:
        return float(size)
    if encoding == "f32":
        return size * (_GATE_COPIES if _GATES in name else 1.0)
    bits = int(encodings.get(encoding).bits)  # without those of scales
    return size * _COPIES.get(bits, 1.0) + (_UNPACKING if bits <= _UNPACKED_BITS else 0)


def _weights(path: Path) -> StoredWeights:
    return StoredWeights.of_tensors(read_folder(path).tensors)


FORMAT = Format(
    name="openvino",
    title="OpenVINO",
    opens=_opens,
    carries=_carries,
    runtime="openvino",
    runtime_title="OpenVINO",
    build=partial(extras.installed, "openvino"),
    presets=presets.PRESETS,
    default_preset=presets.DEFAULT,
    compared_presets=("int8", "int4-mixed", "int4"),
    whole_presets={"bf16": "f32", "f16": "f16"},
    memory=RuntimeMemory(
        value_bytes=_cache_value_bytes,
        buffers=step_buffers(_value_bytes),
        process=ProcessMemory(
            fixed=_FIXED, layer=_LAYER, tokenizer=tokenizer_bytes, copied=_copied
        ),
        float_value_bytes=4,  # as such a graph asks for, see plan/openvino.py
        windowed=False,
    ),
    weights=_weights,
    contents=read_folder,
    check_beside=tokenizers.check,
    check_names=graphs.check_names,
    keeps_provenance=True,
    size_note="file sizes are of the graph and its weights; those of the tokenizer come on top",
    symbol=((0, 1.2), (1.04, -0.6), (-1.04, -0.6)),
)
