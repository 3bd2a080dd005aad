"""OpenVINO: a folder that openvino-genai loads, run in OpenVINO with continuous batching."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from kanna._util import extras
from kanna._util.typed import whole
from kanna.formats.openvino import FORMAT, MODEL, SCALES_BYTES, WEIGHTS
from kanna.formats.openvino.read import keeps_floats, pages_attention
from kanna.formats.text_files import read_object
from kanna.serving.engines import _guidance_trial
from kanna.serving.engines._folder_config import cache_shape, end_ids
from kanna.serving.engines.base import (
    GENERATE,
    SCORE,
    EngineConfig,
    EngineMemory,
    ServingEngine,
)

_BUFFER_ROWS = 256
"""Rows of logits that the working buffers hold: a prompt is read in such blocks."""


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
    shape = cache_shape(model)
    head_bytes = 4 * shape.head_size if keeps_floats(folder) else shape.head_size + SCALES_BYTES
    return EngineMemory(
        weights=(folder / WEIGHTS).stat().st_size,
        cache=shape.heads * head_bytes * _context(folder, config) * (config.slots + 1),
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
    from kanna.serving.engines.openvino_states import StatefulDecoder

    folder = Path(config.path)
    text = TextCodec(folder, end_ids(folder))
    threads = config.threads or default_threads()
    context = _context(folder, config)
    kind = OpenVINODecoder if pages_attention(folder) else StatefulDecoder

    def make() -> RowScheduler:
        # A row more than there are slots: prompts are scored in it.
        decoder = kind(folder, context=context, rows=config.slots + 1, threads=threads)
        return RowScheduler(decoder, config.slots)

    OpenAiRoutes(config, Worker(make), text, program="openvino").serve()


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
    constraint_trial=_guidance_trial.prepare,
    accepts=accepts,
    missing=missing,
    memory=memory,
    run=run,
)
