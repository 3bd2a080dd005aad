"""What mlx-lm's trainer does not keep: values, the optimizer's moments and random numbers.

The order of the data is not here: it follows from the seed and the step.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

_FILE = "trainer.safetensors"
_VALUE, _OPTIMIZER, _RANDOM = "value.", "optimizer.", "random"


def write(folder: Path, model: Any, optimizer: Any) -> None:
    """Write the state of a run between two steps.

    Args:
        folder: Where, which exists.
        model: A model of mlx-lm.
        optimizer: An optimizer of MLX.
    """
    import mlx.core as mx
    from mlx.utils import tree_flatten

    parts = {_VALUE: model.trainable_parameters(), _OPTIMIZER: optimizer.state}
    random: Any = mx.random.state
    flat: dict[str, Any] = {_RANDOM: random[0]}
    for kind, part in parts.items():
        flat |= {f"{kind}{name}": value for name, value in tree_flatten(part)}
    mx.save_safetensors(str(folder / _FILE), flat)


def restore(folder: Path, model: Any, optimizer: Any) -> None:
    """Give a model and an optimizer the state that `write` wrote.

    Args:
        folder: Where it lies.
        model: The same model, as it was before the first step.
        optimizer: The same optimizer, unused.
    """
    import mlx.core as mx
    from mlx.utils import tree_unflatten

    loaded: Any = mx.load(str(folder / _FILE))
    mx.eval(
        loaded
    )  # the file goes with the next checkpoint, and arrays are read when they are used

    def part(kind: str) -> Any:
        named = [(name, value) for name, value in loaded.items() if name.startswith(kind)]
        return tree_unflatten([(name.removeprefix(kind), value) for name, value in named])

    model.update(part(_VALUE))
    optimizer.state = part(_OPTIMIZER)
    high, low = (int(word) for word in loaded[_RANDOM])
    mx.random.seed(high << 32 | low)  # a key is its seed, in two words
