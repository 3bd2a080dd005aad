"""OpenVINO folders: a graph in IR and its weights, as openvino-genai loads them."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from kanna._util import extras
from kanna.encodings import Encoding
from kanna.formats.base import Format, StoredWeights
from kanna.formats.memory import RuntimeMemory, key_length, step_buffers
from kanna.formats.openvino import graphs, tokenizers, weights
from kanna.formats.openvino.graphs import MODEL, WEIGHTS
from kanna.formats.openvino.read import read_folder
from kanna.model import Model
from kanna.plan import openvino as presets

__all__ = ["FORMAT", "MODEL", "SCALES_BYTES", "WEIGHTS", "read_folder"]

SCALES_BYTES = 8
"""Bytes of the scale and the zero of a head's keys, or of its values, of one token."""

# Tokens of a prompt that kanna's engine reads at once.
_STEP = 512


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
        buffers=step_buffers(_STEP, _value_bytes),
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
