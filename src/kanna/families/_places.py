"""Which tensors a model of a family has, by both names, and the shape each must have."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from kanna.families._config import Config
from kanna.families.base import SHAPES, Family

_LAYER = re.compile(r"blk\.(\d+)\.")
_WRAPPERS = (
    "model.language_model.",
    "language_model.model.",
    "language_model.",
    "model.text_model.",
)
_BARE = ("embed_tokens.", "layers.", "norm.")


def text_name(name: str) -> str:
    """A name without the prefixes multimodal wrappers put before the language model."""
    for prefix in _WRAPPERS:
        if name.startswith(prefix):
            suffix = name.removeprefix(prefix)
            return suffix if suffix.startswith("lm_head") else "model." + suffix
    # A model without a head is saved without the name of what would hold both.
    return f"model.{name}" if name.startswith(_BARE) else name


def split(gguf_name: str) -> tuple[str, str]:
    """`blk.0.attn_q`, `weight` of `blk.0.attn_q.weight`; the second is "" where there is none."""
    base, _, kind = gguf_name.rpartition(".")
    return (base, kind) if kind in ("weight", "bias") else (gguf_name, "")


def part_of(gguf_name: str) -> str:
    """`attn_q` of `blk.0.attn_q.weight` or of `blk.0.attn_q`."""
    return _LAYER.sub("", split(gguf_name)[0])


def layer_of(gguf_name: str) -> int | None:
    """Number of the layer of a GGUF tensor."""
    match = _LAYER.match(gguf_name)
    return int(match[1]) if match else None


@dataclass(frozen=True, slots=True)
class Places:
    """Places of tensors in a model.

    Attributes:
        modules: Hugging Face module → GGUF module, which have a weight and may have a bias.
        tensors: Hugging Face tensor → GGUF tensor, of those that are named in another way.
    """

    modules: Mapping[str, str]
    tensors: Mapping[str, str]

    def in_order(self) -> list[str]:
        """GGUF modules and tensors as they are written: embedding, layer by layer, the end."""
        every = [split(name)[0] for name in (*self.modules.values(), *self.tensors.values())]
        every = list(dict.fromkeys(every))
        outer = [m for m in every if layer_of(m) is None]
        inner = [m for m in every if layer_of(m) is not None]
        inner.sort(key=lambda m: layer_of(m) or 0)
        return outer[:1] + inner + outer[1:]


def places(family: Family, c: Config) -> Places:
    """The places of every tensor that a model with this config has."""
    modules = dict(_in_layers(family, c, family.names))
    tensors = dict(_in_layers(family, c, family.tensors))
    for block in family.blocks_of(c):
        for hf_name, gguf_name in block.more_names(c).items():
            (tensors if split(gguf_name)[1] else modules)[hf_name] = gguf_name
    return Places(modules=modules, tensors=tensors)


def _in_layers(family: Family, c: Config, names: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for hf_name, gguf_name in names.items():
        if "{}" not in gguf_name:
            yield hf_name, gguf_name
            continue
        for layer in range(c.layers):
            if family.has(c, layer, gguf_name):
                yield hf_name.replace("{}", str(layer)), gguf_name.replace("{}", str(layer))


def unused(family: Family, c: Config) -> frozenset[str]:
    """Hugging Face modules that checkpoints have and no runtime reads."""
    block = family.unused
    if block is None:
        return frozenset()
    layers = [layer for layer in range(c.layers) if block.where(c, layer)]
    return frozenset(name.replace("{}", str(i)) for name in block.names for i in layers)


def expected_shape(family: Family, sizes: Mapping[str, int], gguf_name: str) -> tuple[int, ...]:
    """Shape a tensor must have; a bias has that of its weight without the columns.

    Args:
        family: The family of the model.
        sizes: Sizes by the symbols of shapes, those of the tensor's layer.
        gguf_name: Its name.
    """
    part, kind = part_of(gguf_name), split(gguf_name)[1]
    symbols = family.shapes.get(part) or SHAPES[part]
    shape = tuple(sizes[s] for s in symbols)
    return shape[:-1] or shape if kind == "bias" else shape
