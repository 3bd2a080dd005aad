"""MLX: a folder that mlx-lm loads, run with its continuous batching."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from kanna._util import extras
from kanna._util.hidden_packages import UNUSED_BY_MLX
from kanna._util.typed import TypedObject, whole
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

_BUFFER_ROWS = 512
"""Rows of logits that the working buffers hold."""


def accepts(path: Path) -> bool:
    """Whether the folder has safetensors and a configuration, and is not one of ONNX."""
    if not (path / "config.json").is_file() or (path / "genai_config.json").is_file():
        return False
    return any(path.glob("*.safetensors"))


def missing() -> str:
    """How to install mlx-lm where it is not here; otherwise empty."""
    return "" if importlib.util.find_spec("mlx_lm") else extras.command("mlx")


def memory(config: EngineConfig) -> EngineMemory:
    """The weight files, a 16-bit cache per slot and one to score in, a block of logits."""
    folder = Path(config.path)
    config_json = read_object(folder / "config.json")
    model = TypedObject(
        {**config_json.values, **config_json.part("text_config").values}, config_json.file
    )
    shape = cache_shape(model)
    token_bytes = 2 * shape.heads * shape.head_size
    return EngineMemory(
        weights=sum(
            file.stat().st_size
            for each in (folder, *map(Path, config.adapters))
            for file in each.glob("*.safetensors")
        ),
        cache=token_bytes * config.context * (config.slots + 1),
        buffers=2 * 4 * _BUFFER_ROWS * model.get("vocab_size", whole(), 0),
    )


def check_adapter(_: Path, adapter: Path) -> None:
    """Refuse what cannot be switched beside a model; its shapes are held to it when it is loaded.

    Raises:
        SourceError: It is no adapter of mlx-lm or PEFT.
        UsageError: It is no plain LoRA.
    """
    from kanna.serving.engines._mlx_adapters import open_switched  # reads headers of tensors

    open_switched(adapter)


def run(config: EngineConfig) -> None:
    """Load the folder and serve it until the process ends."""
    from kanna.serving.engines._mlx_batch import MlxBatch
    from kanna.serving.engines._openai_routes import OpenAiRoutes
    from kanna.serving.engines._text_codec import TextCodec
    from kanna.serving.engines._worker import Worker

    folder = Path(config.path)
    text = TextCodec(folder, end_ids(folder))
    worker = Worker(lambda: MlxBatch(folder, config))
    OpenAiRoutes(config, worker, text, program="mlx-lm").serve()


ENGINE = ServingEngine(
    name="mlx",
    summary="MLX: a folder that mlx-lm loads, run with its continuous batching",
    artefact="a folder with safetensors that mlx-lm loads",
    extra="mlx",
    modules=("mlx_lm", "kanna.serving.engines._openai_routes"),
    unneeded=UNUSED_BY_MLX,
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
