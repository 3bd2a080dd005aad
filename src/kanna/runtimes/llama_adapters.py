"""LoRA adapters in llama.cpp: loaded with a model, and applied in each of its contexts."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any

from kanna.errors import FormatError, KannaError
from kanna.runtimes._llama_log import LOG


class LoraAdapters:
    """The adapters of one model; they are freed with it.

    Args:
        lib: llama.cpp's functions.
        model: The model they change.
        adapters: Files with the scale of each; 1 is as trained.

    Raises:
        FormatError: llama.cpp refuses a file: it is no adapter, or one of another model.
    """

    def __init__(self, lib: Any, model: Any, adapters: Mapping[str, float]) -> None:
        self._lib = lib
        self._handles: list[int] = []
        self._scales = [float(scale) for scale in adapters.values()]
        for path in adapters:
            LOG.clear()
            handle = lib.llama_adapter_lora_init(model, path.encode())
            if not handle:
                raise FormatError(
                    f"llama.cpp cannot load the adapter {path}: {LOG.why()}",
                    expected="a LoRA adapter in GGUF, made for this model",
                )
            self._handles.append(handle)

    def apply(self, context: Any) -> None:
        """Compute with them in `context`. Raises KannaError where llama.cpp refuses."""
        count = len(self._handles)
        if not count:
            return
        handles = (ctypes.c_void_p * count)(*self._handles)
        scales = (ctypes.c_float * count)(*self._scales)
        if self._lib.llama_set_adapters_lora(context, handles, count, scales):
            raise KannaError(f"llama.cpp cannot apply the adapters: {LOG.why()}")
