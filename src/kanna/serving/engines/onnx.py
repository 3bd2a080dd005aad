"""ONNX: a folder that onnxruntime-genai loads, run in onnxruntime with continuous batching."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from kanna._util import extras
from kanna._util.typed import IDS, LAYERS, whole
from kanna.errors import UsageError
from kanna.formats.onnx.files import ADAPTER, genai_model
from kanna.serving.engines import _guidance_trial
from kanna.serving.engines.base import (
    GENERATE,
    SCORE,
    EngineConfig,
    EngineMemory,
    ServingEngine,
)

_BUFFER_ROWS = 256
"""Rows of activations that the working buffers hold: a prompt is read in such blocks."""


def accepts(path: Path) -> bool:
    """Whether the folder has the configuration that onnxruntime-genai reads."""
    return path.is_dir() and (path / "genai_config.json").is_file()


def missing() -> str:
    """How to install onnxruntime where it is not here; otherwise empty."""
    return "" if importlib.util.find_spec("onnxruntime") else extras.command("onnx")


def memory(config: EngineConfig) -> EngineMemory:
    """The weight files, a float32 cache per slot and one to score in, a block of activations."""
    folder = Path(config.path)
    model = genai_model(folder)
    decoder = model.part("decoder")
    kv_size = decoder.need("num_key_value_heads", whole(1)) * decoder.need("head_size", whole(1))
    token_bytes = 2 * 4 * decoder.need("num_hidden_layers", LAYERS) * kv_size
    context = min(config.context, model.need("context_length", whole(1)))
    files = [f for f in folder.iterdir() if f.suffix in {".onnx", ".data"}]
    return EngineMemory(
        weights=sum(file.stat().st_size for file in (*files, *map(Path, config.adapters))),
        cache=token_bytes * context * (config.slots + 1),
        buffers=2 * 4 * _BUFFER_ROWS * model.need("vocab_size", whole(1)),
    )


def check_adapter(_: Path, adapter: Path) -> None:
    """Refuse what is no adapter for onnxruntime, by its name; its values are read with the graph.

    Raises:
        UsageError: It is called otherwise.
    """
    if adapter.suffix != ADAPTER:
        raise UsageError(
            f"{adapter} is no {ADAPTER} file",
            expected="an adapter as onnxruntime reads it",
            todo=f"write it: kanna convert SRC --adapter ADAPTER -o NAME{ADAPTER}",
        )


def run(config: EngineConfig) -> None:
    """Load the folder and serve it until the process ends."""
    from kanna.hardware.cpu import default_threads
    from kanna.serving.engines._openai_routes import OpenAiRoutes
    from kanna.serving.engines._row_scheduler import RowScheduler
    from kanna.serving.engines._text_codec import TextCodec
    from kanna.serving.engines._worker import Worker
    from kanna.serving.engines.onnx_decoder import OnnxDecoder

    folder = Path(config.path)
    eos_ids = genai_model(folder).get("eos_token_id", IDS, list[int]())
    text = TextCodec(folder, eos_ids if isinstance(eos_ids, list) else [eos_ids])
    threads = config.threads or default_threads()

    def make() -> RowScheduler:
        # A row more than there are slots: prompts are scored in it.
        decoder = OnnxDecoder(
            folder,
            context=config.context,
            rows=config.slots + 1,
            threads=threads,
            adapters=[Path(path) for path in config.adapters],
        )
        return RowScheduler(decoder, config.slots)

    OpenAiRoutes(config, Worker(make), text, program="onnxruntime").serve()


ENGINE = ServingEngine(
    name="onnx",
    summary=(
        "ONNX: a folder that onnxruntime-genai loads, run in onnxruntime with continuous batching"
    ),
    artefact="a folder with genai_config.json (ONNX)",
    extra="onnx",
    modules=("onnxruntime", "kanna.serving.engines._openai_routes"),
    roles=(GENERATE, SCORE),
    forces_tool_calls=True,
    takes_adapters=True,
    check_adapter=check_adapter,
    constraint_trial=_guidance_trial.prepare,
    accepts=accepts,
    missing=missing,
    memory=memory,
    run=run,
)
