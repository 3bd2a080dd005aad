"""Checkpoints as their tools publish them: a tiny model, its matrices packed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

KEPT = ("embed", "norm", "lm_head")
Parts = dict[str, Any]


def write(
    plain: Path,
    folder: Path,
    settings: dict[str, Any] | None,
    make: Callable[[Any], Parts],
    *,
    float_type: str = "bfloat16",
) -> list[str]:
    """Write a checkpoint of torch tensors.

    Args:
        plain: A folder with a model in floats.
        folder: Where to write.
        settings: The quantization_config; None: none.
        make: The tensors of a matrix, by what their names have in place of `weight`.
        float_type: Of the tensors that are not packed.

    Returns:
        Names of the matrices.
    """
    import torch
    from safetensors.torch import load_file, save_file

    folder.mkdir()
    tensors: Parts = {}
    names: list[str] = []
    for name, x in load_file(plain / "model.safetensors").items():
        if x.ndim == 2 and not any(k in name for k in KEPT):
            base = name.removesuffix("weight")
            tensors |= {base + k: v.contiguous() for k, v in make(x.float()).items()}
            names.append(name)
        else:
            tensors[name] = x.to(getattr(torch, float_type))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    for side in ("tokenizer.json", "tokenizer_config.json"):
        (folder / side).write_bytes((plain / side).read_bytes())
    config = json.loads((plain / "config.json").read_text()) | {"dtype": float_type}
    if settings is not None:
        config["quantization_config"] = settings
    (folder / "config.json").write_text(json.dumps(config))
    return names


def rewrite(folder: Path, change: Callable[[Parts], None]) -> None:
    """Change the tensors of a checkpoint."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def bits_of(x: Any) -> Any:
    """The bits of values, float32, so that a NaN equals itself and -0 is not 0."""
    return np.ascontiguousarray(np.asarray(x, np.float32)).view(np.uint32)


def to_bf16(x: Any) -> Any:
    """Values rounded to bfloat16, float32."""
    import torch

    return torch.tensor(np.asarray(x)).bfloat16().float().numpy()
