"""Optimization of folders for openvino-genai, within a budget of the graph and its weights."""

from __future__ import annotations

from collections.abc import Sequence

from kanna.formats.openvino import tokenizers
from kanna.optimization.adapters.base import Adapter
from kanna.plan import openvino as presets


class OpenVINOAdapter(Adapter):
    """OpenVINO folders: groups of 4 and 8 bits."""

    format = "openvino"

    def candidates(self) -> Sequence[str]:
        """What the CPU plugin multiplies by at full speed."""
        return presets.CANDIDATES

    def check_available(self) -> None:
        """What makes the tokenizer's graphs."""
        tokenizers.require()


ADAPTER = OpenVINOAdapter
