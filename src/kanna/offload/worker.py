"""One run of a model on a device or on the CPU, in a process of its own.

`python -m kanna.offload.worker TASK` writes logits to a file and prints where everything
was as one JSON object. A lost device or a crash of a driver ends this process and no other.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from kanna import libllama
from kanna._util.processes import answer
from kanna.formats import gguf
from kanna.libllama import devices
from kanna.model import F32
from kanna.offload.placement import Placement
from kanna.runtimes import llamacpp
from kanna.runtimes.llama_engine import LlamaEngine
from kanna.runtimes.llamacpp import LOG

PROMPT, STEPS = 96, 8
"""Tokens of the prompt, read in one batch; and how many of them are read one at a time after."""
_ALL_LAYERS = 999
_INPUT_TENSORS = ("token_embd", "token_types", "position_embd", "per_layer_token_embd")
_TEXT = (
    "The plane takes a shaving so thin that light passes through it, and the board beneath is a "
    "little flatter than before. A joiner reads the grain first, sets the iron, and only then "
    "begins; haste tears the wood. "
)


class ObservedEngine(LlamaEngine):
    """An engine on some devices alone, each of whose operators is counted.

    Args:
        lib: The library.
        path: A GGUF.
        devices: ggml's devices, the last of which is null.
        placement: Counts the operators.
        options: Those of any engine.
    """

    def __init__(
        self, lib: Any, path: Path, *, devices: Any, placement: Placement, **options: Any
    ) -> None:
        self._held = devices, placement  # llama.cpp has their addresses
        self.devices = ctypes.cast(devices, ctypes.c_void_p).value
        self.observer = placement.address
        super().__init__(lib, path, **options)


def run(path: str, *, backend: str, logits: str, threads: int) -> dict[str, Any]:
    """Read a prompt, then tokens one at a time.

    Args:
        path: A GGUF.
        backend: What to compute on; `cpu` uses no device at all.
        logits: Where the logits are written, f32 [tokens, vocabulary].
        threads: Threads of the CPU.
    """
    LOG.echoed = True
    lib = llamacpp.library()
    used = libllama.library()
    here = [] if backend == "cpu" else devices.of_backend(used, backend)
    if backend != "cpu" and not here:
        return {"devices": [], "why": _why(used)}
    placement = Placement(devices.registry(used))
    with ObservedEngine(
        lib,
        Path(path),
        context=PROMPT + STEPS,
        threads=threads,
        gpu_layers=0 if backend == "cpu" else _ALL_LAYERS,
        mmap=False,  # so that a buffer's size is that of the tensors in it
        devices=_handles(used, backend),
        placement=placement,
    ) as engine:
        layers, offloaded = dict(LOG.layers), LOG.offloaded
        weights = [(device, size) for device, use, size in LOG.buffers if use == "weights"]
        ids = _ids(engine, path)
        rows = [engine.logits(ids)]
        splits = LOG.splits
        rows += [row.copy() for row in engine.logits_in_parts(ids[:STEPS], part=1)]
        buffers = [b for b in LOG.buffers if b[1] != "weights"]
    _write(Path(logits), np.concatenate(rows))
    return {
        "devices": [one.to_dict() for one in here],
        "runtime": used.version,
        "layers": {str(number): device for number, device in sorted(layers.items())},
        "offloaded": offloaded,
        "weights": weights,
        "input_bytes": _input_bytes(path),
        "buffers": buffers,
        "splits": splits,
        "operators": placement.to_dict(),
        "inputs": dict(placement.inputs),
        "complaint": LOG.why() if LOG.complaints else "",
        "tokens": len(ids),
    }


def _why(used: libllama.Library) -> str:
    if used.build.place is not None:
        return devices.why_none(used, llamacpp.heard())
    return llamacpp.heard() or f"{used.version} was built without it, or finds no driver"


def _handles(used: libllama.Library, backend: str) -> Any:
    """The devices of a backend as llama.cpp takes them: a null ends them, none at all for `cpu`."""
    ggml = devices.registry(used)
    handles: list[int] = []
    if backend != "cpu":
        names = {device.name for device in devices.of_backend(used, backend)}
        every = [ggml.ggml_backend_dev_get(n) for n in range(ggml.ggml_backend_dev_count())]
        handles = [h for h in every if ggml.ggml_backend_dev_name(h).decode() in names]
    return (ctypes.c_void_p * (len(handles) + 1))(*handles, None)


def _ids(engine: LlamaEngine, path: str) -> list[int]:
    """The prompt; of a model without a tokenizer, ids in turn."""
    if gguf.read(Path(path)).value("tokenizer.ggml.model") == "none":
        return [1 + i % (engine.vocab_size - 1) for i in range(PROMPT)]
    room = min(PROMPT, engine.trained_context or PROMPT)
    return engine.tokenize(_TEXT * 4, add_bos=True)[:room]


def _input_bytes(path: str) -> int:
    """Bytes of the tensors that llama.cpp keeps in main memory: rows are looked up in them."""
    return sum(
        tensor.nbytes
        for name, tensor in gguf.read(Path(path)).tensors.items()
        if name.partition(".")[0] in _INPUT_TENSORS
    )


def _write(path: Path, rows: F32) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        np.save(file, rows)


if __name__ == "__main__":
    sys.exit(answer(run))
