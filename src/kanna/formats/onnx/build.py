"""The float32 graph of a model, made by onnxruntime-genai's model builder, unmodified."""

from __future__ import annotations

import importlib.util
import json
import re
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kanna._util.extras import command
from kanna._util.interpreter import module_command
from kanna._util.processes import started
from kanna._util.progress import Progress
from kanna.errors import KannaError, MissingError, UnsupportedError
from kanna.formats import safetensors
from kanna.model import Model, Tensor
from kanna.plan.types import TensorPlan

EXTRA = "onnx"
NEEDED = ("onnxruntime", "onnxruntime_genai", "onnx_ir", "onnx", "torch", "transformers")
WINDOWS = ("sliding_window", "use_sliding_window", "max_window_layers", "layer_types")
GENAI_EDGE = 4096
"""Where onnxruntime-genai reads a Phi-3's text again, whatever the model says (measured, 0.18)."""
TEMPLATE = "chat_template.jinja"
GRAPH, DATA, GENAI = "model.onnx", "model.onnx.data", "genai_config.json"
_MOST_LENGTH = 2**31 - 1
_SEARCH = ("do_sample", "temperature", "top_k", "top_p", "repetition_penalty")
"""Of generation_config.json, what genai_config.json has under the same name."""
_LAYER = re.compile(r"Reading layer (\d+)")


def require(names: Sequence[str] = NEEDED) -> None:
    """MissingError with the pip command when a package is not here; none is imported."""
    absent = [n for n in names if importlib.util.find_spec(n) is None]
    if absent:
        raise MissingError(
            f"not installed here: {', '.join(absent)}",
            expected="the extra onnx",
            todo=command("onnx"),
        )


_NO_BUILDER = "onnxruntime-genai 0.18 has no builder of it"
_UNPROVED = "its graph was not proved here yet"
REFUSED = {
    "falcon_h1": _UNPROVED,
    "gemma3n": _NO_BUILDER,
    "gemma4": _UNPROVED,
    "granitehybrid": _UNPROVED,
    "lfm2": _UNPROVED,
    "lfm2moe": _UNPROVED,
    "llama4": _NO_BUILDER,
    "ministral3": _UNPROVED,
    "nemotron_h": _UNPROVED,
    "nemotron_h_moe": _UNPROVED,
    "qwen35": _UNPROVED,
    "qwen35moe": _UNPROVED,
    "qwen3vl": _UNPROVED,
    "qwen3vlmoe": _NO_BUILDER,
}
"""Families that have no graph here, and why."""


def preflight(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Raise UnsupportedError for what the builder cannot express, before anything is built.

    Args:
        config: config.json, as `families.to_hf` gives it.
        tensors: The tensors by their names in Hugging Face's checkpoints, from there too.
    """
    vocabulary = int(config["vocab_size"])
    for name, tensor in tensors.items():
        # The builder knows the head by its number of rows: it takes this one for it, and the logits
        # are wrong.
        if (
            len(tensor.shape) == 2
            and tensor.shape[0] == vocabulary
            and "embed" not in name
            and "lm_head" not in name
        ):
            raise UnsupportedError(
                f"{name} has {vocabulary} rows, as many as the vocabulary: the model builder takes"
                " it for the head",
                expected="different numbers",
                todo="write a GGUF instead: --format gguf",
            )


def notes(model: Model, config: Mapping[str, Any]) -> list[str]:
    """Notes on `model`, llama.cpp aside, and on what a runtime does otherwise with its graph."""
    own_notes = [n for n in model.notes if "llama.cpp" not in n]
    rope = config.get("rope_scaling") or {}
    edge = config.get("original_max_position_embeddings")
    if "long_factor" not in rope or edge == GENAI_EDGE:
        return own_notes
    return [
        *own_notes,
        f"the graph turns all positions by long factors once a text has more than {edge} tokens;"
        f" onnxruntime-genai reads a text again at {GENAI_EDGE} and nowhere else: what it generates"
        f" across {edge} is not the model's. kanna's own runs are right, and so are"
        " prompts on either side",
    ]


def extras(config: Mapping[str, Any], ends: Sequence[int]) -> dict[str, Any]:
    """What our own config leaves out: windows as the source has them, and every end token.

    Args:
        config: config.json of the source.
        ends: Ids that end a generation.
    """
    windows = {k: v for k, v in config.items() if k in WINDOWS and v is not None}
    return windows | ({"eos_token_id": list(ends)} if ends else {})


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
    """Write the model as a Hugging Face folder below `scratch` and build its graph in `out`.

    The folder then holds model.onnx, its external data, genai_config.json and tokenizer files.

    Raises:
        KannaError: The builder failed; with its last line.
    """
    source = scratch / "source"
    safetensors.write_folder(
        source,
        tensors=tensors,
        files={"config.json": json.dumps(config).encode(), **_for_builder(files)},
        threads=threads,
        nonfinite=nonfinite,
        progress=progress,
    )
    run_builder(source, out, scratch / "cache", int(config["num_hidden_layers"]), progress)
    _keep(out, config, files)
    return out


def run_builder(source: Path, out: Path, scratch: Path, layers: int, progress: Progress) -> None:
    """Have the builder make the float32 graph of the Hugging Face folder `source` in `out`.

    Args:
        source: config.json, weights and tokenizer.
        out: Folder that gets the graph.
        scratch: What the builder keeps beside it.
        layers: As many as it tells of.
        progress: Where it is told.

    Raises:
        KannaError: The builder failed; with its last line.
    """
    task = {"source": str(source), "out": str(out), "scratch": str(scratch)}
    command = module_command("kanna.formats.onnx.build_worker", json.dumps(task))
    output: deque[str] = deque(maxlen=40)
    progress.start("build the graph", layers, "layers")
    try:
        with started(command, variables={"PYTHONUNBUFFERED": "1"}, merged=True) as child:
            for line in child.stdout or ():
                output.append(line.strip())
                if layer := _LAYER.match(line):
                    progress.advance(1, f"layer {layer[1]}")
    finally:
        progress.finish()
    if child.returncode:
        last = next((s for s in reversed(output) if s), "no message")
        raise KannaError(
            f"the model builder ended with code {child.returncode}: {last}",
            todo="write a GGUF instead: --format gguf",
        )


_TOKENS = tuple(f"{name}_token" for name in ("bos", "eos", "unk", "pad"))


def _for_builder(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Tokenizer files that the builder can load: it saves them anew, and ours replace them."""
    settings = json.loads(files.get("tokenizer_config.json", b"{}"))
    plain = {k: v for k, v in settings.items() if k in _TOKENS and v is not None}
    plain["tokenizer_class"] = "PreTrainedTokenizerFast"
    needed = ("tokenizer.json", "generation_config.json")
    return {
        **{name: files[name] for name in needed if name in files},
        "tokenizer_config.json": json.dumps(plain).encode(),
    }


def _keep(out: Path, config: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
    """Side files as the source has them, and every end token in genai_config.json."""
    for path in out.iterdir():
        if path.is_file() and path.name not in (GRAPH, DATA, GENAI):
            path.unlink()
    for name, data in side_files(config, files).items():
        path = out / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    genai = json.loads((out / GENAI).read_text(encoding="utf-8"))
    ends = config.get("eos_token_id")
    if isinstance(ends, list) and ends:
        genai["model"]["eos_token_id"] = ends if len(ends) > 1 else ends[0]
    for kind in ("bos", "pad"):
        if (token := config.get(f"{kind}_token_id")) is not None:
            genai["model"][f"{kind}_token_id"] = token
    # The builder leaves some of them out.
    generation = json.loads(files.get("generation_config.json", b"{}"))
    genai["search"] |= {k: generation[k] for k in _SEARCH if generation.get(k) is not None}
    (out / GENAI).write_text(json.dumps(genai, indent=4), encoding="utf-8")


def side_files(config: Mapping[str, Any], files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Side files of a folder by name, as onnxruntime-genai can read them.

    Args:
        config: config.json.
        files: Side files of the source.
    """
    kept = {**_template_file(files), **files}
    if (settings := kept.get("tokenizer_config.json")) is not None:
        kept["tokenizer_config.json"] = _bounded(settings, config)
    return kept


def _template_file(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The chat template of tokenizer_config.json in a file of its own, as transformers 5 has it.

    What reads a folder by either name then finds the same text.
    """
    template = json.loads(files.get("tokenizer_config.json", b"{}")).get("chat_template")
    return {TEMPLATE: template.encode()} if isinstance(template, str) else {}


def _bounded(data: bytes, config: Mapping[str, Any]) -> bytes:
    """tokenizer_config.json without a length of 1e30, which onnxruntime-genai misreads."""
    settings = json.loads(data)
    length = settings.get("model_max_length")
    if not isinstance(length, (int, float)) or length <= _MOST_LENGTH:
        return data
    settings["model_max_length"] = config["max_position_embeddings"]
    return (json.dumps(settings, indent=2, ensure_ascii=False) + "\n").encode()
