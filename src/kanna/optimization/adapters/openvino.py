"""Optimization of folders for openvino-genai, within a budget of the graph and its weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kanna.encodings import Encoding
from kanna.formats.openvino import tokenizers
from kanna.model import F32
from kanna.optimization.adapters.base import Adapter
from kanna.optimization.measure import InputRounding

CANDIDATES = (
    "nbits4g32",
    "nbits4g32s",
    "nbits4g64",
    "nbits4g64s",
    "nbits4g128",
    "nbits4g128s",
    "nbits8g32",
    "nbits8g128",
    "nbits8g128s",
    "f16",
)
"""What OpenVINO's CPU plugin multiplies by without widening a matrix first."""
GROUP = 32
"""Inputs that share a scale, where the plugin rounds them."""


def rounded_inputs(encoding: Encoding, x: F32) -> F32 | None:
    """Inputs f32 [tokens, columns] as the plugin rounds them for packed matrices.

    Whole numbers up to 127 per group, times a scale; None where the encoding is a float.
    """
    if encoding.block == 1 or x.shape[1] % GROUP:
        return None
    groups = x.reshape(len(x), -1, GROUP)
    largest = np.maximum(np.abs(groups).max(axis=2, keepdims=True), np.float32(1e-30))
    scale = largest / np.float32(127)
    return (np.rint(groups / scale) * scale).reshape(x.shape)


class OpenVINOAdapter(Adapter):
    """OpenVINO folders: groups of 4 and 8 bits."""

    format = "openvino"

    def candidates(self) -> Sequence[str]:
        """What the CPU plugin multiplies by at full speed."""
        return CANDIDATES

    @property
    def rounding(self) -> InputRounding:
        """The plugin rounds inputs of packed matrices to 8 bits."""
        return rounded_inputs

    def check_available(self) -> None:
        """What makes the tokenizer's graphs."""
        tokenizers.require()


ADAPTER = OpenVINOAdapter
