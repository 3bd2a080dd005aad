"""Experts: feed-forward parts of which a router picks a few for each token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kanna.families._config import Config
from kanna.families.base import Block, Metadata, Problem, always, every_layer
from kanna.families.blocks.expert_stacks import KINDS, QWEN, Spelling, Stacks
from kanna.families.forms import OneRow
from kanna.model import Model, u32

_LAYER = "model.layers.{}."
SHARED_WIDTH = "shared_expert_intermediate_size"


def experts(
    spelling: Spelling = QWEN,
    *,
    count: str = "num_experts",
    width: str = "moe_intermediate_size",
    used: str = "num_experts_per_tok",
    where: Callable[[Config, int], bool] = every_layer,
    present: Callable[[Config], bool] = always,
) -> Block:
    """Routed experts as a block.

    Args:
        spelling: What checkpoints call them.
        count: Key of config.json with how many there are.
        width: Key of config.json with the width of one.
        used: Key of config.json with how many of them see a token.
        where: Which layers have them.
        present: Which models of the family have them.
    """

    def metadata(arch: str, c: Config) -> Metadata:
        return {
            f"{arch}.expert_count": u32(c.count(count)),
            f"{arch}.expert_used_count": u32(c.count(used)),
            f"{arch}.expert_feed_forward_length": u32(c.count(width)),
        }

    def to_config(model: Model) -> dict[str, Any]:
        if not model.whole("{arch}.expert_count", 0):
            return {}
        # Where all layers have experts some files give their width as that of the layer.
        wide = model.whole("{arch}.expert_feed_forward_length", 0)
        return {
            count: model.whole("{arch}.expert_count", least=1),
            used: model.whole("{arch}.expert_used_count", least=1),
            width: wide or model.whole("{arch}.feed_forward_length", least=1),
        }

    return Block(
        names={_LAYER + spelling.router: "blk.{}.ffn_gate_inp"},
        tensors={
            _LAYER + spelling.stack(k): f"blk.{{}}.ffn_{k}_exps.weight" for k in spelling.kinds
        },
        shapes={
            "ffn_gate_inp": ("experts", "hidden"),
            "ffn_gate_exps": ("experts", "expert_ff", "hidden"),
            "ffn_up_exps": ("experts", "expert_ff", "hidden"),
            "ffn_down_exps": ("experts", "hidden", "expert_ff"),
        },
        where=where,
        present=present,
        sizes=lambda c: {"experts": c.count(count), "expert_ff": c.count(width)},
        metadata=metadata,
        to_config=to_config,
        reads=frozenset({count, width, used}),
        regrouping=Stacks(spelling, count),
        checks=_used_of(used, count),
    )


def _used_of(used: str, count: str) -> Callable[[Config], list[Problem]]:
    """No token sees more experts than there are."""

    def checks(c: Config) -> list[Problem]:
        if c.count(used) <= c.count(count):
            return []
        return [
            Problem(
                f"config.json has {used} = {c.count(used)}",
                f"{c.count(count)} at most, which is {count}",
                "fetch config.json again from where the model was published",
            )
        ]

    return checks


def shared_expert(
    module: str = "mlp.shared_expert",
    *,
    gate: str = "mlp.shared_expert_gate",
    width: str = SHARED_WIDTH,
    where: Callable[[Config, int], bool] = every_layer,
) -> Block:
    """An expert that every token passes.

    Args:
        module: Its module inside the layer.
        gate: Module whose sigmoid scales what it adds; "" where there is none.
        width: Key of config.json with its width.
        where: Which layers have it.
    """

    def metadata(arch: str, c: Config) -> Metadata:
        return {f"{arch}.expert_shared_feed_forward_length": u32(c.count(width))}

    def to_config(model: Model) -> dict[str, Any]:
        return {width: model.whole("{arch}.expert_shared_feed_forward_length", least=1)}

    names = {_LAYER + f"{module}.{kind}_proj": f"blk.{{}}.ffn_{kind}_shexp" for kind in KINDS}
    if gate:
        names[_LAYER + gate] = "blk.{}.ffn_gate_inp_shexp"
    return Block(
        names=names,
        shapes={
            "ffn_gate_inp_shexp": ("hidden",),
            "ffn_gate_shexp": ("shared_ff", "hidden"),
            "ffn_up_shexp": ("shared_ff", "hidden"),
            "ffn_down_shexp": ("hidden", "shared_ff"),
        },
        forms={"ffn_gate_inp_shexp": OneRow()},
        where=where,
        sizes=lambda c: {"shared_ff": c.count(width)},
        metadata=metadata,
        to_config=to_config,
        reads=frozenset({width}),
    )


def selection_bias(tensor: str, where: Callable[[Config, int], bool] = every_layer) -> Block:
    """A bias by which experts are chosen, and which their weights do not have.

    Args:
        tensor: Its name inside the layer.
        where: Which layers have it; the sizes are those of `experts`.
    """
    return Block(
        tensors={_LAYER + tensor: "blk.{}.exp_probs_b.bias"},
        shapes={"exp_probs_b": ("experts",)},
        where=where,
    )


def swiglu_spelling(module: str, router: str = "gate", *, fused: bool = False) -> Spelling:
    """Experts whose gate, down and up are called w1, w2 and w3.

    Args:
        module: Module inside the layer that holds experts and router.
        router: Name of the router in it.
        fused: As in `Spelling`.
    """
    called = {"gate": "w1", "down": "w2", "up": "w3"}
    return Spelling(
        each={k: f"{module}.experts.{{expert}}.{w}.weight" for k, w in called.items()},
        gate_up=f"{module}.experts.gate_up_proj",
        down=f"{module}.experts.down_proj",
        router=f"{module}.{router}",
        fused=fused,
    )
