"""Optimization of folders for openvino-genai, within a budget of the graph and its weights."""

from __future__ import annotations

from collections.abc import Sequence

from kanna.formats.openvino import tokenizers
from kanna.optimization.adapters.base import Adapter

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


class OpenVINOAdapter(Adapter):
    """OpenVINO folders: groups of 4 and 8 bits."""

    format = "openvino"

    def candidates(self) -> Sequence[str]:
        """What the CPU plugin multiplies by at full speed."""
        return CANDIDATES

    def check_available(self) -> None:
        """What makes the tokenizer's graphs."""
        tokenizers.require()


ADAPTER = OpenVINOAdapter
