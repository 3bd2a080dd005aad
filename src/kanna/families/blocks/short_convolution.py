"""Gated short convolutions (LFM2): in place of attention in some layers."""

from __future__ import annotations

from typing import Any

from kanna.families._config import Config
from kanna.families.base import Block, Metadata
from kanna.families.forms import DepthwiseConvolution
from kanna.model import Model, u32

KINDS = ("conv", "full_attention")


def is_attention(c: Config, layer: int) -> bool:
    """Whether a layer attends, by `layer_types` or the older list of such layers."""
    kinds = c.layer_kinds(KINDS)
    if kinds is not None:
        return kinds[layer] == "full_attention"
    given = c.get("full_attn_idxs")
    return given is None or layer in given


def _is_convolution(c: Config, layer: int) -> bool:
    return not is_attention(c, layer)


def _metadata(arch: str, c: Config) -> Metadata:
    return {f"{arch}.shortconv.l_cache": u32(c.count("conv_L_cache"))}


def _to_config(model: Model) -> dict[str, Any]:
    return {"conv_L_cache": model.whole("{arch}.shortconv.l_cache", least=1), "conv_bias": False}


SHORT_CONVOLUTION = Block(
    names={
        "model.layers.{}.conv.conv": "blk.{}.shortconv.conv",
        "model.layers.{}.conv.in_proj": "blk.{}.shortconv.in_proj",
        "model.layers.{}.conv.out_proj": "blk.{}.shortconv.out_proj",
    },
    shapes={
        "shortconv.conv": ("hidden", "kernel"),
        "shortconv.in_proj": ("3hidden", "hidden"),
        "shortconv.out_proj": ("hidden", "hidden"),
    },
    where=_is_convolution,
    sizes=lambda c: {"kernel": c.count("conv_L_cache"), "3hidden": 3 * c.hidden},
    forms={"shortconv.conv": DepthwiseConvolution()},
    metadata=_metadata,
    to_config=_to_config,
    defaults={"conv_L_cache": 3, "conv_bias": False},
    fixed={"conv_bias": (False,)},
    reads=frozenset({"conv_L_cache", "layer_types", "full_attn_idxs"}),
)
