"""MLX: a folder that mlx-lm loads, run with its continuous batching."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

from kanna._util import extras
from kanna.serving.engines.base import (
    GENERATE,
    SCORE,
    EngineConfig,
    EngineMemory,
    ServingEngine,
)

INSTALL = extras.command("mlx")
_BUFFER_ROWS = 512
"""Rows of logits that the working buffers hold."""


def accepts(path: Path) -> bool:
    """Whether the folder has safetensors and a configuration, and is not one of ONNX."""
    if not (path / "config.json").is_file() or (path / "genai_config.json").is_file():
        return False
    return any(path.glob("*.safetensors"))


def missing() -> str:
    """How to install mlx-lm where it is not here; otherwise empty."""
    return "" if importlib.util.find_spec("mlx_lm") else INSTALL


def memory(config: EngineConfig) -> EngineMemory:
    """The weight files, a 16-bit cache per slot and one to score in, a block of logits."""
    folder = Path(config.path)
    model = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    model = {**model, **model.get("text_config", {})}
    heads = int(model.get("num_attention_heads", 1))
    kv_heads = int(model.get("num_key_value_heads") or heads)
    head_size = int(model.get("head_dim") or model.get("hidden_size", 0) // heads)
    token_bytes = 2 * 2 * int(model.get("num_hidden_layers", 0)) * kv_heads * head_size
    return EngineMemory(
        weights=sum(file.stat().st_size for file in folder.glob("*.safetensors")),
        cache=token_bytes * config.context * (config.slots + 1),
        buffers=2 * 4 * _BUFFER_ROWS * int(model.get("vocab_size", 0)),
    )


def run(config: EngineConfig) -> None:
    """Load the folder and serve it until the process ends."""
    from kanna.serving.engines._mlx_batch import MlxBatch
    from kanna.serving.engines._openai_routes import OpenAiRoutes
    from kanna.serving.engines._text_codec import TextCodec
    from kanna.serving.engines._worker import Worker

    folder = Path(config.path)
    eos_ids: set[int] = set()
    for name in ("config.json", "generation_config.json"):
        if (folder / name).is_file():
            ids = json.loads((folder / name).read_text(encoding="utf-8")).get("eos_token_id")
            eos_ids |= set(ids if isinstance(ids, list) else [] if ids is None else [ids])
    text = TextCodec(folder, sorted(eos_ids))
    worker = Worker(lambda: MlxBatch(folder, config))
    OpenAiRoutes(config, worker, text, program="mlx-lm").serve()


def constraint_trial(artefact: str) -> Callable[[str, str], str]:
    """Compiles constraints as the engine does, in a process of its own."""
    from kanna.serving.engines import _guidance_trial

    return _guidance_trial.prepare(artefact)


ENGINE = ServingEngine(
    name="mlx",
    summary="MLX: a folder that mlx-lm loads, run with its continuous batching",
    artefact="a folder with safetensors that mlx-lm loads",
    extra="mlx",
    modules=("mlx_lm", "kanna.serving.engines._openai_routes"),
    roles=(GENERATE, SCORE),
    forces_tool_calls=True,
    constraint_trial=constraint_trial,
    accepts=accepts,
    missing=missing,
    memory=memory,
    run=run,
)
