"""Engines that the gateway starts in child processes.

Each file exports ENGINE, a `ServingEngine`, and is known by the file's name.
"""

from __future__ import annotations

from pathlib import Path

from kanna import families
from kanna._util import plugins
from kanna._util.nearest import absent
from kanna.errors import NotFoundError, SourceError
from kanna.runtimes.folder_text import read_json
from kanna.serving.engines.base import EngineConfig, EngineMemory, ServingEngine
from kanna.sources import adapter

__all__ = ["EngineConfig", "EngineMemory", "ServingEngine", "for_artefact", "get", "names"]


def names() -> tuple[str, ...]:
    """Names of all engines, sorted."""
    return plugins.names(__name__, "ENGINE")


def get(name: str) -> ServingEngine:
    """The engine of that name; raises UnsupportedError naming the known ones."""
    return plugins.load(__name__, name, "ENGINE")


def for_artefact(path: Path) -> ServingEngine:
    """The engine that runs the artefact at `path`.

    Raises:
        SourceError: None does.
        UnsupportedError: It is an adapter, or a model that no stock runtime has.
    """
    engines = [get(name) for name in names()]
    expected = " or ".join(engine.artefact for engine in engines)
    if not path.exists():
        raise NotFoundError(absent(path), expected=expected)
    if path.is_dir():
        families.require_runtime(read_json(path / "config.json"))
    for engine in engines:
        if engine.accepts(path):
            return engine
    adapter.refuse_folder(path)
    raise SourceError(
        f"no engine runs {path}", expected=expected, todo="make one with `kanna convert`"
    )
