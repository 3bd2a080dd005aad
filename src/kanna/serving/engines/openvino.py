"""OpenVINO: a folder that openvino-genai loads, run in OpenVINO with continuous batching."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

from kanna._util import extras
from kanna._util.typed import IDS, LAYERS, whole
from kanna.formats.openvino import FORMAT, MODEL, WEIGHTS
from kanna.formats.openvino.read import keeps_floats
from kanna.formats.text_files import read_object
from kanna.serving.engines.base import (
    GENERATE,
    SCORE,
    EngineConfig,
    EngineMemory,
    ServingEngine,
)

_BUFFER_ROWS = 256
"""Rows of logits that the working buffers hold: a prompt is read in such blocks."""
_SCALES = 16
"""Bytes of scales and zeros of the keys and values of a head, of one token."""


def accepts(path: Path) -> bool:
    """Whether the folder has a decoder's graph of OpenVINO."""
    return FORMAT.opens(path)


def missing() -> str:
    """How to install OpenVINO where it is not here; otherwise empty."""
    return "" if importlib.util.find_spec("openvino") else extras.command("openvino")


def memory(config: EngineConfig) -> EngineMemory:
    """The weights, a cache per slot and one to score in, a block of logits."""
    folder = Path(config.path)
    model = read_object(folder / "config.json")
    heads = model.get("num_attention_heads", whole(1), 1)
    kv_heads = model.get("num_key_value_heads", whole(), 0) or heads
    head_size = model.get("head_dim", whole(), 0) or model.get("hidden_size", whole(), 0) // heads
    layers = model.get("num_hidden_layers", LAYERS, 0)
    floats = keeps_floats(folder)
    token_bytes = layers * kv_heads * 2 * head_size * (4 if floats else 1)
    token_bytes += 0 if floats else layers * kv_heads * _SCALES
    return EngineMemory(
        weights=(folder / WEIGHTS).stat().st_size,
        cache=token_bytes * _context(folder, config) * (config.slots + 1),
        buffers=2 * 4 * _BUFFER_ROWS * model.get("vocab_size", whole(), 0),
    )


def _context(folder: Path, config: EngineConfig) -> int:
    trained = read_object(folder / "config.json").get("max_position_embeddings", whole(), 0)
    return min(config.context, trained or config.context)


def run(config: EngineConfig) -> None:
    """Load the folder and serve it until the process ends."""
    from kanna.hardware.cpu import default_threads
    from kanna.serving.engines._openai_routes import OpenAiRoutes
    from kanna.serving.engines._row_scheduler import RowScheduler
    from kanna.serving.engines._text_codec import TextCodec
    from kanna.serving.engines._worker import Worker
    from kanna.serving.engines.openvino_decoder import OpenVINODecoder

    folder = Path(config.path)
    end_ids: set[int] = set()
    for name in ("config.json", "generation_config.json"):
        ids = read_object(folder / name).get("eos_token_id", IDS, list[int]())
        end_ids |= set(ids if isinstance(ids, list) else [ids])
    text = TextCodec(folder, sorted(end_ids))
    threads = config.threads or default_threads()
    context = _context(folder, config)

    def make() -> RowScheduler:
        # A row more than there are slots: prompts are scored in it.
        decoder = OpenVINODecoder(folder, context=context, rows=config.slots + 1, threads=threads)
        return RowScheduler(decoder, config.slots)

    OpenAiRoutes(config, Worker(make), text, program="openvino").serve()


def constraint_trial(artefact: str) -> Callable[[str, str], str]:
    """Compiles constraints as the engine does, in a process of its own."""
    from kanna.serving.engines import _guidance_trial

    return _guidance_trial.prepare(artefact)


ENGINE = ServingEngine(
    name="openvino",
    summary=(
        "OpenVINO: a folder that openvino-genai loads, run in OpenVINO with continuous batching"
    ),
    artefact=f"a folder with {MODEL} (OpenVINO)",
    extra="openvino",
    modules=("openvino", "kanna.serving.engines._openai_routes"),
    roles=(GENERATE, SCORE),
    forces_tool_calls=True,
    constraint_trial=constraint_trial,
    accepts=accepts,
    missing=missing,
    memory=memory,
    run=run,
)
