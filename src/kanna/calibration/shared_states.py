"""Keys and values that some layers compute for layers after them (Gemma 4), window by window."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kanna.formats import safetensors

_PARTS = ("keys", "values")


class SharedStates:
    """Kept in a folder, where an interrupted run finds them again, or in memory."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._kept: dict[tuple[str, int], tuple[Any, ...]] = {}

    def put(self, kind: str, number: int, states: tuple[Any, ...]) -> None:
        """Keep the keys and values that layers of a kind share.

        Args:
            kind: The kind of layer, as transformers calls it.
            number: The window.
            states: Keys and values.
        """
        if self._folder is None:
            self._kept[kind, number] = tuple(part.cpu() for part in states)
            return
        arrays = {
            name: part.contiguous().cpu().numpy() for name, part in zip(_PARTS, states, strict=True)
        }
        safetensors.save(self._path(kind, number), arrays)

    def get(self, kind: str, number: int) -> tuple[Any, ...]:
        """The keys and values of a window."""
        if self._folder is None:
            return self._kept[kind, number]
        from safetensors.torch import load_file

        arrays = load_file(self._path(kind, number))
        return tuple(arrays[name] for name in _PARTS)

    def _path(self, kind: str, number: int) -> Path:
        assert self._folder is not None
        return self._folder / f"shared-{kind}-{number:05}.safetensors"
