"""Mamba 2: a layer whose state decays by head (Granite 4, Falcon-H1, Nemotron-H)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from kanna.families._config import Config
from kanna.families.base import Block, Metadata
from kanna.families.forms import AsMatrix, DepthwiseConvolution, Same
from kanna.model import Model, u32


@dataclass(frozen=True, slots=True, kw_only=True)
class Mamba2:
    """Sizes of the layer, by the keys that config.json has for them.

    Attributes:
        heads: Heads of the state.
        head: Values of a head.
        groups: Groups of heads that share what is written and read.
        state: Values of the state per channel.
        kernel: Tokens the convolution sees.
    """

    heads: str = "mamba_n_heads"
    head: str = "mamba_d_head"
    groups: str = "mamba_n_groups"
    state: str = "mamba_d_state"
    kernel: str = "mamba_d_conv"

    def inner(self, c: Config) -> int:
        """Channels of the state."""
        if c.get(self.head) in (None, "auto"):  # as transformers fills it in
            own = c.get("mamba_d_ssm") is not None
            return c.count("mamba_d_ssm") if own else c.count("mamba_expand") * c.hidden
        return c.count(self.heads) * c.count(self.head)

    def group(self, c: Config) -> int:
        """Channels that are normalised together."""
        return self.inner(c) // c.count(self.groups)

    def sizes(self, c: Config) -> dict[str, int]:
        """By their symbols."""
        mixed = self.inner(c) + 2 * c.count(self.groups) * c.count(self.state)
        return {
            "inner": self.inner(c),
            "mixed": mixed,
            "projected": self.inner(c) + mixed + c.count(self.heads),
            "state_heads": c.count(self.heads),
            "groups": c.count(self.groups),
            "group": self.group(c),
            "kernel": c.count(self.kernel),
            "one": 1,
        }

    def metadata(self, arch: str, c: Config) -> Metadata:
        """The `{arch}.ssm.*` keys."""
        return {
            f"{arch}.ssm.conv_kernel": u32(c.count(self.kernel)),
            f"{arch}.ssm.state_size": u32(c.count(self.state)),
            f"{arch}.ssm.group_count": u32(c.count(self.groups)),
            f"{arch}.ssm.inner_size": u32(self.inner(c)),
            f"{arch}.ssm.time_step_rank": u32(c.count(self.heads)),
        }

    def to_config(self, model: Model) -> dict[str, Any]:
        """The way back."""
        heads = model.whole("{arch}.ssm.time_step_rank", least=1)
        return {
            self.heads: heads,
            self.head: model.whole("{arch}.ssm.inner_size", least=1) // heads,
            self.groups: model.whole("{arch}.ssm.group_count", least=1),
            self.state: model.whole("{arch}.ssm.state_size", least=1),
            self.kernel: model.whole("{arch}.ssm.conv_kernel", least=1),
        }


CONVOLUTION_BIAS = frozenset({"ssm_conv1d"})
"""Its convolution always has a bias: llama.cpp adds it unasked, and crashes where there is none."""


def mamba2(module: str, where: Callable[[Config, int], bool], keys: Mamba2) -> Block:
    """A Mamba 2 layer as a block.

    Args:
        module: Its module inside the layer.
        where: Which layers have it.
        keys: Where config.json has its sizes.
    """
    at = f"model.layers.{{}}.{module}"
    return Block(
        names={
            f"{at}.in_proj": "blk.{}.ssm_in",
            f"{at}.conv1d": "blk.{}.ssm_conv1d",
            f"{at}.norm": "blk.{}.ssm_norm",
            f"{at}.out_proj": "blk.{}.ssm_out",
        },
        tensors={
            f"{at}.A_log": "blk.{}.ssm_a",
            f"{at}.D": "blk.{}.ssm_d",
            f"{at}.dt_bias": "blk.{}.ssm_dt.bias",
        },
        shapes=_SHAPES,
        where=where,
        sizes=keys.sizes,
        forms={
            "ssm_conv1d": DepthwiseConvolution(),
            "ssm_norm": AsMatrix(keys.group),
            "ssm_a": AsMatrix(there=lambda x: -np.exp(x), back=lambda x: np.log(-x)),
            "ssm_d": AsMatrix(),
            "ssm_dt": Same(),
        },
        metadata=keys.metadata,
        to_config=keys.to_config,
        reads=frozenset({keys.heads, keys.head, keys.groups, keys.state, keys.kernel}),
    )


_SHAPES = {
    "ssm_in": ("projected", "hidden"),
    "ssm_conv1d": ("mixed", "kernel"),
    "ssm_out": ("hidden", "inner"),
    "ssm_norm": ("groups", "group"),
    "ssm_a": ("state_heads", "one"),
    "ssm_d": ("state_heads", "one"),
    "ssm_dt": ("state_heads",),
}
