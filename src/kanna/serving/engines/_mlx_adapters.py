"""LoRA adapters beside an MLX model: read once, and switched on for the steps that ask for them.

mlx-lm loads one adapter, for good. Here every matrix that an adapter changes stands behind a layer
that adds the changes of those that are switched on when its graph is built: what a step computes is
settled then, and steps of other adapters may be under way.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kanna.adapters import LoraAdapter, open_adapter
from kanna.errors import FormatError, UsageError
from kanna.families import text_name
from kanna.serving.engines._jobs import AdapterScales


def open_switched(path: Path) -> LoraAdapter:
    """An adapter that can be switched; nothing but headers is read.

    Args:
        path: Its folder, as mlx-lm or PEFT saved it.

    Raises:
        SourceError: It is no adapter.
        UsageError: Something of it is no sum beside a matrix.
    """
    adapter = open_adapter(path)
    longs = [name for name, change in adapter.low_rank.items() if change.magnitude is not None]
    looked_up = [name for name, change in adapter.low_rank.items() if change.embedding]
    other = [*longs, *looked_up, *adapter.bias, *adapter.rows, *adapter.replaced]
    if other:
        raise UsageError(
            f"the adapter {path} changes {other[0]} by more than a product of two matrices",
            expected="plain LoRA of linear layers, which can be switched",
            todo=f"merge it: kanna merge SRC {path} -o merged/ --format mlx",
        )
    return adapter


class MlxAdapters:
    """The adapters that a process was given, by their place in its configuration.

    Args:
        model: mlx-lm's model, whose layers are replaced.
        paths: Folders of adapters.

    Raises:
        FormatError: The model has no such matrix.
    """

    def __init__(self, model: Any, paths: Sequence[Path]) -> None:
        self.current: AdapterScales = ()
        self._changes: dict[str, dict[int, tuple[Any, Any]]] = {}
        if not paths:
            return
        modules = {text_name(name): (name, module) for name, module in model.named_modules()}
        for index, path in enumerate(paths):
            for name, change in open_switched(path).low_rank.items():
                place, module = modules.get(text_name(name), ("", None))
                if module is None or _shape(module) != change.shape:
                    here = "has none of that name" if module is None else f"is {_shape(module)}"
                    raise FormatError(
                        f"the adapter {path} changes {name}, {list(change.shape)}: the model "
                        + here,
                        expected="an adapter of the model that is served",
                        todo=f"merge it: kanna merge SRC {path} -o merged/ --format mlx",
                    )
                self._changes.setdefault(place, {})[index] = _matrices(name, change)
        self._replace(model)

    def switch(self, scales: AdapterScales) -> None:
        """Switch adapters on, each with its scale, for what is computed from now on; others off."""
        self.current = scales

    def _replace(self, model: Any) -> None:
        from mlx.utils import tree_unflatten

        modules = dict(model.named_modules())
        layers = [
            (place, _switched(self, modules[place], changes))
            for place, changes in self._changes.items()
        ]
        model.update_modules(tree_unflatten(layers))


def _shape(module: Any) -> tuple[int, ...]:
    """[rows, columns] of a linear layer, packed or not; () of others."""
    import mlx.nn as nn

    if isinstance(module, nn.QuantizedLinear):
        rows, words = module.weight.shape
        return rows, words * 32 // module.bits
    return tuple(module.weight.shape) if isinstance(module, nn.Linear) else ()


def _matrices(name: str, change: Any) -> tuple[Any, Any]:
    """[columns, rank] and, with the strength, [rank, rows], as float32 arrays of MLX."""
    import mlx.core as mx

    left, right = change.tensors(name)
    first = right.rows(0, right.shape[0]).T
    second = left.rows(0, left.shape[0]).T * change.scale
    return mx.array(first), mx.array(second)


def _switched(owner: MlxAdapters, layer: Any, changes: dict[int, tuple[Any, Any]]) -> Any:
    """A layer with changes beside it; mlx is imported only now."""
    import mlx.nn as nn

    class SwitchedLayer(nn.Module):
        """Adds what is switched on when it is called."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def __call__(self, x: Any) -> Any:
            y = self.layer(x)
            for index, scale in owner.current:
                if index in changes:
                    first, second = changes[index]
                    y = y + (((x @ first) @ second) * scale).astype(y.dtype)
            return y

    return SwitchedLayer()
