"""Which operator ran on which device: asked by ggml before each of them, counted here."""

from __future__ import annotations

import ctypes
from collections import Counter
from typing import Any

from kanna.libllama.functions import EVALUATION_CALLBACK

CPU = "CPU"
# ggml_tensor begins with its type (an int32), then the buffer it lies in.
_BUFFER_AT = 8
# They compute nothing: another view of the same values.
_VIEWS = {"NONE", "VIEW", "RESHAPE", "PERMUTE", "TRANSPOSE"}
_INPUTS = ("inp", "embd")
"""How llama.cpp names what becomes of the token embeddings, which it keeps in the main memory."""


class Placement:
    """Counts operators by the device whose memory their result lies in.

    ggml's scheduler gives an operator the memory of the device that computes it.

    Attributes:
        operators: How often each ran, by device and name.
        inputs: Operators on the CPU that only look the tokens' embeddings up.
        address: What llama.cpp is given as `cb_eval`.
    """

    def __init__(self, ggml: Any) -> None:
        self._ggml = ggml
        self.operators: Counter[tuple[str, str]] = Counter()
        self.inputs: Counter[str] = Counter()
        self._callback = EVALUATION_CALLBACK(self._heard)
        self.address = ctypes.cast(self._callback, ctypes.c_void_p).value

    def _heard(self, tensor: int, asked: bool, _data: Any) -> bool:
        """Count a tensor that is asked for; False: its values are not wanted."""
        if not asked:
            return True
        operator = self._ggml.ggml_op_desc(tensor).decode("ascii", "replace")
        if operator in _VIEWS:
            return False
        device = self._device(tensor)
        name = self._ggml.ggml_get_name(tensor).decode("utf-8", "replace")
        if device == CPU and (operator == "GET_ROWS" or name.startswith(_INPUTS)):
            self.inputs[operator] += 1
        else:
            self.operators[device, operator] += 1
        return False

    def _device(self, tensor: int) -> str:
        """The device of the buffer of a tensor."""
        buffer = ctypes.c_void_p.from_address(tensor + _BUFFER_AT).value
        if not buffer or self._ggml.ggml_backend_buffer_is_host(buffer):
            return CPU  # a GPU's host memory, which only the CPU computes in, too
        return self._ggml.ggml_backend_buffer_name(buffer).decode("utf-8", "replace")

    def to_dict(self) -> dict[str, dict[str, int]]:
        """Counts of operators by device."""
        by_device: dict[str, dict[str, int]] = {}
        for (device, operator), count in sorted(self.operators.items()):
            by_device.setdefault(device, {})[operator] = count
        return by_device
