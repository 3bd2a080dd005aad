"""Sizes that headers claim, held against the tensors there are, before anything is made of them."""

from __future__ import annotations

from collections.abc import Mapping

from kanna.errors import SourceError, UnsupportedError
from kanna.families._config import Config
from kanna.families._places import expected_shape, part_of
from kanna.families._registry import family_of_model
from kanna.families.base import Family
from kanna.model import Model, Tensor

_LAYERS, _WIDTH = 1024, 1 << 20
"""What a model may have in any case: loops and lists of that length cost nothing."""
_AGAIN = "fetch the model again: config.json and weights are not of one model"


def check_config(family: Family, config: Config, tensors: Mapping[str, Tensor]) -> None:
    """Raise SourceError for sizes in config.json that no tensor of the source has.

    Args:
        family: The family of the model.
        config: The config.
        tensors: Those of the source.
    """
    most = max(_LAYERS, len(tensors))
    if config.layers > most:
        raise SourceError(
            f"config.json has num_hidden_layers = {config.layers}, the weights {len(tensors)} "
            "tensors",
            expected=f"at most {most} layers",
            todo=_AGAIN,
        )
    widest = max(_WIDTH, *(n for t in tensors.values() for n in t.shape)) if tensors else _WIDTH
    for symbol, size in family.all_sizes(config).items():
        if size > widest and symbol not in ("2ff", "qkv"):
            raise SourceError(
                f"config.json makes a model {size} wide ({symbol}), its widest tensor has {widest}",
                expected="sizes that the weights have",
                todo=_AGAIN,
            )


def check_stored(model: Model) -> None:
    """Raise SourceError where the metadata of a GGUF and its tensors are not of one model.

    llama.cpp does not load such a file, and what is said of its memory would be no more than the
    metadata claims. Families that kanna does not know, and models whose layers differ, are not
    looked at.

    Args:
        model: The GGUF as a model.
    """
    try:
        _, family = family_of_model(model)
        sizes = _sizes(model)
    except UnsupportedError:
        return
    parts = {part_of(name) for name in (*family.names.values(), *family.tensors.values())}
    for name, tensor in model.tensors.items():
        if part_of(name) not in parts:
            continue
        try:
            expected = expected_shape(family, sizes, name)
        except KeyError:  # a size that the file does not name
            continue
        if tuple(tensor.shape) != expected:
            raise SourceError(
                f"{name} has shape {list(tensor.shape)}",
                expected=f"{list(expected)} from the metadata of the file",
                todo="convert the model again: llama.cpp does not load this file",
            )


def _sizes(model: Model) -> dict[str, int]:
    """Sizes of a GGUF's model by the symbols of SHAPES, as far as it names them.

    Raises UnsupportedError when layers differ.
    """
    hidden, heads, kv_heads, head, feed = (
        model.whole(f"{{arch}}.{key}", 0)
        for key in (
            "embedding_length",
            "attention.head_count",
            "attention.head_count_kv",
            "attention.key_length",
            "feed_forward_length",
        )
    )
    sizes: dict[str, int] = {}
    if (embedding := model.tensors.get("token_embd.weight")) is not None:
        sizes["vocab"] = embedding.shape[0]
    if hidden:
        sizes["hidden"] = hidden
    if feed:
        sizes |= {"ff": feed, "2ff": 2 * feed}
    if hidden and heads:
        head, kv_heads = head or hidden // heads, kv_heads or heads
        sizes |= {"q": heads * head, "kv": kv_heads * head, "head": head}
        sizes["qkv"] = sizes["q"] + 2 * sizes["kv"]
    if model.whole("{arch}.attention.value_length", head) != head:
        for symbol in ("q", "kv", "qkv"):
            sizes.pop(symbol, None)
    return sizes
