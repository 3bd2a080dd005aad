"""Keys and values that some layers compute for layers after them (Gemma 4), window by window."""

from __future__ import annotations

from collections.abc import Mapping
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
            self._kept[kind, number] = tuple(part.detach().cpu() for part in states)
            return
        arrays = {
            name: part.detach().contiguous().cpu().numpy()
            for name, part in zip(_PARTS, states, strict=True)
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


class SharedGradients(SharedStates):
    """The same on the way back: gradients of what a layer gave, from all layers that read it."""

    def __init__(self, forward: SharedStates) -> None:
        """Begin at the last layer.

        Args:
            forward: What was kept on the way forward.
        """
        super().__init__()
        self._forward = forward
        self._gradients: dict[tuple[str, int], tuple[Any, ...]] = {}
        self._read: dict[tuple[str, int], tuple[Any, ...]] = {}
        self._given: dict[tuple[str, int], tuple[Any, ...]] = {}

    def get(self, kind: str, number: int) -> tuple[Any, ...]:
        """The keys and values of a window, as the start of a graph."""
        leaves = tuple(part.detach().requires_grad_() for part in self._forward.get(kind, number))
        self._read[kind, number] = leaves
        return leaves

    def put(self, kind: str, number: int, states: tuple[Any, ...]) -> None:
        """Remember what a layer gives: gradients flow back through it."""
        self._given[kind, number] = states

    def given(self, number: int) -> tuple[list[Any], list[Any]]:
        """What the layer that just ran gave for a window, and the gradients of that."""
        states, gradients = list[Any](), list[Any]()
        for key in [key for key in self._given if key[1] == number]:
            given = self._given.pop(key)
            if key in self._gradients:
                states += given
                gradients += [
                    gradient.to(state.device)
                    for gradient, state in zip(self._gradients.pop(key), given, strict=True)
                ]
        return states, gradients

    def collect(self) -> None:
        """Add the gradients that came back to what the layer read."""
        for key, leaves in self._read.items():
            fresh = tuple(leaf.grad.cpu() for leaf in leaves)
            before = self._gradients.get(key)
            both = (
                fresh
                if before is None
                else tuple(a + b for a, b in zip(before, fresh, strict=True))
            )
            self._gradients[key] = both
        self._read.clear()

    def arrays(self, prefix: str) -> dict[str, Any]:
        """The gradients that no layer has taken yet, to be saved."""
        return {
            f"{prefix}{kind}.{number}.{name}": part.contiguous().numpy()
            for (kind, number), parts in self._gradients.items()
            for name, part in zip(_PARTS, parts, strict=True)
        }

    def load(self, arrays: Mapping[str, Any]) -> None:
        """Take them up again, by the names of `arrays` less the prefix."""
        import torch

        for key in {name.rpartition(".")[0] for name in arrays}:
            kind, _, number = key.rpartition(".")
            parts = tuple(torch.from_numpy(arrays[f"{key}.{name}"]) for name in _PARTS)
            self._gradients[kind, int(number)] = parts
