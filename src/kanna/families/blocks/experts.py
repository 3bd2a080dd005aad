"""Experts: feed-forward parts of which a router picks a few for each token.

Checkpoints hold a matrix per expert, or all of a layer in one tensor with gate above up; GGUF holds
one stack [experts, rows, columns] for each of gate, up and down.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kanna.families._config import Config
from kanna.families.base import Block, Metadata, every_layer
from kanna.families.stacked import Stacked, one_of, part_of_each
from kanna.model import Model, Tensor, u32

KINDS = ("gate", "up", "down")


@dataclass(frozen=True, slots=True, kw_only=True)
class Spelling:
    """How checkpoints of a family name their experts; `{}` is the layer, `{expert}` the expert.

    Attributes:
        each: Name of one expert's gate, up and down.
        gate_up: Name of the tensor with all gates and ups of a layer.
        down: Name of the tensor with all downs of a layer.
        router: Module of the router.
    """

    each: Mapping[str, str]
    gate_up: str = "model.layers.{}.mlp.experts.gate_up_proj"
    down: str = "model.layers.{}.mlp.experts.down_proj"
    router: str = "model.layers.{}.mlp.gate"

    def stack(self, kind: str) -> str:
        """Name of the stack of one kind, between the two forms."""
        return self.down if kind == "down" else f"{self.gate_up.rpartition('.')[0]}.{kind}_proj"


_EACH = "model.layers.{}.mlp.experts.{expert}"
QWEN = Spelling(each={kind: f"{_EACH}.{kind}_proj.weight" for kind in KINDS})


def experts(
    spelling: Spelling = QWEN,
    *,
    count: str = "num_experts",
    width: str = "moe_intermediate_size",
    where: Callable[[Config, int], bool] = every_layer,
) -> Block:
    """Routed experts as a block.

    Args:
        spelling: What checkpoints call them.
        count: Key of config.json with how many there are.
        width: Key of config.json with the width of one.
        where: Which layers have them.
    """

    def sizes(c: Config) -> dict[str, int]:
        return {"experts": c.count(count), "expert_ff": c.count(width)}

    def metadata(arch: str, c: Config) -> Metadata:
        return {
            f"{arch}.expert_count": u32(c.count(count)),
            f"{arch}.expert_used_count": u32(c.count("num_experts_per_tok")),
            f"{arch}.expert_feed_forward_length": u32(c.count(width)),
        }

    def to_config(model: Model) -> dict[str, Any]:
        return {
            count: model.whole("{arch}.expert_count", least=1),
            "num_experts_per_tok": model.whole("{arch}.expert_used_count", least=1),
            width: model.whole("{arch}.expert_feed_forward_length", least=1),
        }

    return Block(
        names={spelling.router: "blk.{}.ffn_gate_inp"},
        tensors={spelling.stack(k): f"blk.{{}}.ffn_{k}_exps.weight" for k in KINDS},
        shapes={
            "ffn_gate_inp": ("experts", "hidden"),
            "ffn_gate_exps": ("experts", "expert_ff", "hidden"),
            "ffn_up_exps": ("experts", "expert_ff", "hidden"),
            "ffn_down_exps": ("experts", "hidden", "expert_ff"),
        },
        where=where,
        sizes=sizes,
        metadata=metadata,
        to_config=to_config,
        reads=frozenset({count, width, "num_experts_per_tok"}),
        regrouping=_Stacks(spelling, count),
    )


def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(
        re.escape(name)
        .replace(r"\{\}", r"(?P<layer>\d+)")
        .replace(r"\{expert\}", r"(?P<expert>\d+)")
    )


class _Stacks:
    """Stacks of gate, up and down, from a matrix per expert or from one tensor per layer."""

    def __init__(self, spelling: Spelling, count: str) -> None:
        self.spelling, self.count = spelling, count
        self._each = {kind: _pattern(name) for kind, name in spelling.each.items()}
        self._fused = _pattern(spelling.gate_up)
        self._stacks = {kind: _pattern(spelling.stack(kind)) for kind in KINDS}

    def gather(self, tensors: Mapping[str, Tensor], c: Config) -> dict[str, Tensor]:
        """Stacks in place of what they are made of; one that is not whole is left out."""
        out: dict[str, Tensor] = {}
        single: dict[str, dict[int, Tensor]] = {}
        for name, tensor in tensors.items():
            kind, match = _first(self._each, name)
            if match is not None:
                stack = self.spelling.stack(kind).replace("{}", match["layer"])
                single.setdefault(stack, {})[int(match["expert"])] = tensor
            elif (match := self._fused.fullmatch(name)) and len(tensor.shape) == 3:
                half = tensor.shape[1] // 2
                for number, kind in enumerate(("gate", "up")):
                    stack = self.spelling.stack(kind).replace("{}", match["layer"])
                    out[stack] = part_of_each(stack, tensor, number * half, half)
            else:
                out[name] = tensor
        experts = c.count(self.count)
        for stack, parts in single.items():
            whole = len(parts) == experts and max(parts) == experts - 1
            if whole and len({tuple(part.shape) for part in parts.values()}) == 1:
                out[stack] = Stacked(stack, [parts[i] for i in range(experts)])
        return out

    def spread(self, tensors: Mapping[str, Tensor], _: Config) -> dict[str, Tensor]:
        """One matrix per expert."""
        out: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            kind, match = _first(self._stacks, name)
            if match is None:
                out[name] = tensor
                continue
            for index in range(tensor.shape[0]):
                each = self._name(kind, match["layer"], index)
                out[each] = one_of(each, tensor, index)
        return out

    def pieces(self, name: str, c: Config) -> list[str]:
        """Names of one stack's matrices."""
        kind, match = _first(self._stacks, name)
        if match is None:
            return [name]
        return [self._name(kind, match["layer"], i) for i in range(c.count(self.count))]

    def _name(self, kind: str, layer: str, index: int) -> str:
        return self.spelling.each[kind].replace("{}", layer).replace("{expert}", str(index))


def _first(patterns: Mapping[str, re.Pattern[str]], name: str) -> tuple[str, re.Match[str] | None]:
    """The kind whose pattern a name is, and the match."""
    matches = ((kind, p.fullmatch(name)) for kind, p in patterns.items())
    return next(((kind, match) for kind, match in matches if match), ("", None))
