"""Engines that the gateway can start in child processes.

Each file exports ENGINE, found by its name.
"""

from __future__ import annotations

from pathlib import Path

from kanna._util import plugins
from kanna.errors import SourceError
from kanna.serving.engines.base import Engine, EngineConfig, Footprint

__all__ = ["Engine", "EngineConfig", "Footprint", "for_artefact", "get", "names"]


def names() -> tuple[str, ...]:
    return plugins.names(__name__, "ENGINE")


def get(name: str) -> Engine:
    """The engine of that name; raises UnsupportedError naming the known ones."""
    return plugins.load(__name__, name, "ENGINE")


def for_artefact(path: Path) -> Engine:
    """The engine that runs the artefact at `path`; raises SourceError when none does."""
    if not path.exists():
        raise SourceError(
            f"{path} does not exist", expected="a .gguf file, an ONNX folder or an MLX folder"
        )
    for name in names():
        engine = get(name)
        if engine.accepts(path):
            return engine
    raise SourceError(
        f"no engine runs {path}",
        expected="a .gguf file, a folder with genai_config.json (ONNX), or one with safetensors that mlx-lm loads",
        todo="make one with `kanna convert`",
    )
