"""Adapters as mlx-lm saves them: both matrices transposed, one scale for all, or whole layers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from kanna._util.typed import number, text, whole
from kanna.adapters.base import AdapterLayout, LoraAdapter, LowRank, Transposed
from kanna.errors import FormatError, UnsupportedError
from kanna.formats import safetensors
from kanna.formats.text_files import read_object
from kanna.model import Tensor
from kanna.sources import adapter as names

_PARTS = ("lora_a", "lora_b", "m")


def read(given: str, path: Path, files: Mapping[str, Path]) -> LoraAdapter:
    """An adapter that mlx-lm saved.

    Args:
        given: What the user named.
        path: Its folder.
        files: The files in it.

    Raises:
        UnsupportedError: A part of it cannot be taken exactly.
        FormatError: Config and tensors contradict each other.
    """
    config = read_object(files[names.CONFIG], todo="save the adapter again")
    kind = config.get("fine_tune_type", text(64), "lora")
    if kind not in ("lora", "dora", "full"):
        raise UnsupportedError(f"{given} is of the type {kind}", expected="lora, dora or full")
    adapter = LoraAdapter(
        given=given,
        path=path,
        layout=LAYOUT.title,
        base=config.get("model", text(4096), ""),
        weight_files=[files[LAYOUT.weights], files[names.CONFIG]],
        files={n: p for n, p in files.items() if n != LAYOUT.weights},
        ties=True,  # mlx-lm computes a tied head with the embedding's change
    )
    changes: dict[str, dict[str, Tensor]] = {}
    for name, tensor in safetensors.read_file(files[LAYOUT.weights]).items():
        module, _, part = name.rpartition(".")
        if part in _PARTS:
            changes.setdefault(module, {})[part] = tensor
        else:
            adapter.replaced[name] = tensor
    parameters = config.part("lora_parameters")
    if changes and "scale" not in parameters:
        raise FormatError(
            f"{given} names no lora_parameters.scale in {names.CONFIG}",
            expected="the scale, which mlx-lm has in place of alpha",
            todo="save the adapter again",
        )
    scale = parameters.need("scale", number()) if changes else 1.0
    rank = parameters.get("rank", whole(1, 1 << 16), 0)
    adapter.alpha = scale * rank
    for module, parts in changes.items():
        adapter.low_rank[module] = _low_rank(given, module, parts, scale)
    if not adapter.modules:
        raise FormatError(f"{given} holds no change of any layer", todo="save the adapter again")
    return adapter


def _low_rank(given: str, module: str, parts: Mapping[str, Tensor], scale: float) -> LowRank:
    if "lora_a" not in parts or "lora_b" not in parts:
        raise FormatError(
            f"{given} has not both halves of {module}",
            expected="lora_a and lora_b of every module",
            todo="save the adapter again",
        )
    first, second = parts["lora_a"], parts["lora_b"]
    if len(first.shape) != 2 or len(second.shape) != 2 or first.shape[1] != second.shape[0]:
        raise UnsupportedError(
            f"{given} has {module} of shapes {list(first.shape)} and {list(second.shape)}",
            expected="two matrices of one rank: changes of stacked experts are not taken",
            todo="fuse it with mlx_lm.fuse, and give the fused folder",
        )
    embedding = module.endswith("embed_tokens")
    if embedding and "m" in parts:
        raise UnsupportedError(
            f"{given} has DoRA on the embedding {module}",
            expected="DoRA on linear layers",
            todo="fuse it with mlx_lm.fuse, and give the fused folder",
        )
    # lora_a is [inputs, rank], lora_b [rank, outputs]; an embedding's matrix is [inputs, outputs].
    return LowRank(
        left=first if embedding else Transposed(second),
        right=second if embedding else Transposed(first),
        scale=scale,
        magnitude=parts.get("m"),
        embedding=embedding,
    )


def _recognizes(files: Mapping[str, Path]) -> bool:
    return names.CONFIG in files and LAYOUT.weights in files


LAYOUT = AdapterLayout(
    title="mlx-lm",
    summary="Adapters as mlx-lm saves them: both matrices transposed, one scale, or whole layers",
    weights="adapters.safetensors",
    recognizes=_recognizes,
    read=read,
)
