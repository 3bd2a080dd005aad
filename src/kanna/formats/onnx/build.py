"""The float32 graph of a model, made by onnxruntime-genai's model builder, unmodified."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kanna.errors import KannaError, MissingError, UnsupportedError
from kanna.formats import safetensors
from kanna.model import Tensor
from kanna.plan.types import TensorPlan
from kanna.processes import environment
from kanna.progress import Progress

EXTRA = "onnx"
INSTALL = 'pip install "kanna[onnx]"'
NEEDED = ("onnxruntime", "onnxruntime_genai", "onnx_ir", "onnx", "torch", "transformers")
FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
"""Architectures, by GGUF name, whose float32 graph was proved against transformers (tests/test_onnx.py)."""
GRAPH, DATA, GENAI = "model.onnx", "model.onnx.data", "genai_config.json"
_LAYER = re.compile(r"Reading layer (\d+)")


def require(names: Sequence[str] = NEEDED) -> None:
    """MissingError with the pip command when a package is not here; none is imported."""
    absent = [n for n in names if importlib.util.find_spec(n) is None]
    if absent:
        raise MissingError(f"{', '.join(absent)} is not installed here", expected="the extra onnx", todo=INSTALL)


def preflight(family: str, config: Mapping[str, Any], tensors: Mapping[str, Tensor], window: int | None) -> None:
    """Raise UnsupportedError for what the builder cannot express, before anything is built.

    family: GGUF architecture; config, tensors: as `families.to_hf` gives them; window: sliding window of the source
    """
    if family not in FAMILIES:
        raise UnsupportedError(
            f"the model builder has no proven graph for {family}",
            expected=", ".join(FAMILIES),
            todo="write a GGUF instead: --format gguf",
        )
    vocabulary = int(config["vocab_size"])
    for name, tensor in tensors.items():
        # The builder knows the head by its number of rows: it takes this one for it, and the logits are wrong.
        if len(tensor.shape) == 2 and tensor.shape[0] == vocabulary and "embed" not in name and "lm_head" not in name:
            raise UnsupportedError(
                f"{name} has {vocabulary} rows, as many as the vocabulary: the model builder takes it for the head",
                expected="different numbers",
                todo="write a GGUF instead: --format gguf",
            )
    if window and window < int(config["max_position_embeddings"]):
        raise UnsupportedError(
            f"the model attends to {window} tokens, and its graph would attend to all",
            expected="a model without a sliding window",
            todo="write a GGUF instead: --format gguf",
        )
    rope = config.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    # Linear scaling of a llama, for one, is left out without a word.
    known = ("default", *(("llama3",) if family == "llama" else ()))
    if kind not in known:
        raise UnsupportedError(
            f"the model builder's graph of {family} differs from the model where rope is scaled by {kind!r}",
            expected=", ".join(known),
            todo="write a GGUF instead: --format gguf",
        )


def build(
    out: Path,
    scratch: Path,
    *,
    config: Mapping[str, Any],
    tensors: Sequence[TensorPlan],
    files: Mapping[str, bytes],
    threads: int,
    nonfinite: str,
    progress: Progress,
) -> Path:
    """Write the model as a Hugging Face folder below `scratch` and build its graph in `out`: model.onnx, external
    data, genai_config.json, tokenizer files. Raises KannaError with the builder's last words when it fails."""
    source = scratch / "source"
    safetensors.write_folder(
        source,
        tensors=tensors,
        files={"config.json": json.dumps(config).encode(), **files},
        threads=threads,
        nonfinite=nonfinite,
        progress=progress,
    )
    task = {"source": str(source), "out": str(out), "scratch": str(scratch / "cache")}
    unbuffered = environment() | {"PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "kanna.formats.onnx._child", json.dumps(task)]
    said: deque[str] = deque(maxlen=40)
    layers = int(config["num_hidden_layers"])
    progress.start("build the graph", layers, "layers")
    try:
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=unbuffered
        ) as child:
            for line in child.stdout or ():
                said.append(line.strip())
                if found := _LAYER.match(line):
                    progress.advance(1, f"layer {found[1]}")
    finally:
        progress.finish()
    if child.returncode:
        last = next((s for s in reversed(said) if s), "no message")
        raise KannaError(
            f"the model builder ended with code {child.returncode}: {last}", todo="write a GGUF instead: --format gguf"
        )
    return out
