"""ONNX folders that onnxruntime-genai loads."""

from __future__ import annotations

from kanna.encodings import Encoding
from kanna.encodings.grouped.nbits import parse
from kanna.formats.base import Format
from kanna.formats.memory import RuntimeMemory, step_buffers
from kanna.formats.onnx.files import is_onnx
from kanna.model import Model
from kanna.plan import onnx as presets

# Tokens of a prompt that kanna's engine reads at once.
_STEP = 256


def _carries(encoding: Encoding) -> bool:
    return parse(encoding.name) is not None or encoding.name == "f32"


def _value_bytes(_: Model) -> int:
    return 4  # our graphs compute in float32


FORMAT = Format(
    name="onnx",
    title="ONNX",
    opens=is_onnx,
    carries=_carries,
    runtime="onnx",
    runtime_title="onnxruntime",
    presets=presets.PRESETS,
    default_preset=presets.DEFAULT,
    compared_presets=("w8", "int4-mixed", "int4"),
    whole_presets={"bf16": presets.WHOLE, "f16": presets.WHOLE},
    memory=RuntimeMemory(value_bytes=_value_bytes, buffers=step_buffers(_STEP, _value_bytes)),
    size_note="file sizes are of weights and scales; the graph and its tables come on top",
    symbol=((-0.89, -0.89), (0.89, -0.89), (0.89, 0.89), (-0.89, 0.89)),
)
