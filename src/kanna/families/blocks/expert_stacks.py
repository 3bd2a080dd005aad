"""How checkpoints hold the experts of a layer, and the way to GGUF's stacks and back.

Checkpoints hold a matrix per expert, or all of a layer in one tensor with gate above up; GGUF holds
one stack [experts, rows, columns] for each of gate, up and down.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from kanna.families._config import Config
from kanna.families.stacked import Picked, Stacked, Turned, one_of, part_of_each
from kanna.model import Tensor

KINDS = ("gate", "up", "down")
_FLOATS = ("bf16", "f16", "f32")


@dataclass(frozen=True, slots=True, kw_only=True)
class Spelling:
    """How checkpoints of a family name what a layer's experts are made of, inside the layer.

    Attributes:
        each: Names of one expert's gate, up and down; `{expert}` is its number.
        gate_up: Name of the tensor with all gates and ups.
        down: Name of the tensor with all downs.
        router: Module of the router.
        fused: Models are published with the tensors of all experts, not with a matrix per expert.
        transposed: Those tensors are [experts, columns, rows].
        interleaved: Rows of gate and up alternate.
        gated: Experts have a gate; else `gate_up` names the tensor with all ups.
    """

    each: Mapping[str, str]
    gate_up: str = "mlp.experts.gate_up_proj"
    down: str = "mlp.experts.down_proj"
    router: str = "mlp.gate"
    fused: bool = False
    transposed: bool = False
    interleaved: bool = False
    gated: bool = True

    @property
    def kinds(self) -> tuple[str, ...]:
        """What an expert is made of."""
        return KINDS if self.gated else KINDS[1:]

    def stack(self, kind: str) -> str:
        """Name of the stack of one kind, between the two forms."""
        if kind == "down" and not self.transposed:
            return self.down
        if not self.gated:
            return self.gate_up
        fused = self.down if kind == "down" else self.gate_up
        before, dot, last = fused.rpartition(".")
        return f"{before}{dot}{kind}_of_{last}"


_EACH = "mlp.experts.{expert}"
QWEN = Spelling(each={kind: f"{_EACH}.{kind}_proj.weight" for kind in KINDS})


class Stacks:
    """Stacks of gate, up and down, from a matrix per expert or from one tensor per layer.

    Args:
        spelling: What checkpoints call them.
        count: Key of config.json with how many experts there are.
    """

    def __init__(self, spelling: Spelling, count: str) -> None:
        self.spelling, self.count = spelling, count
        self._each = {kind: _pattern(name) for kind, name in spelling.each.items()}
        self._fused = _pattern(spelling.gate_up)
        self._stacks = {kind: _pattern(spelling.stack(kind)) for kind in spelling.kinds}

    def gather(self, tensors: Mapping[str, Tensor], c: Config) -> dict[str, Tensor]:
        """Stacks in place of what they are made of; one that is not whole is left out."""
        out: dict[str, Tensor] = {}
        single: dict[str, dict[int, Tensor]] = {}
        for name, tensor in tensors.items():
            kind, match = _first(self._each, name)
            if match is not None:
                stack = match["layer"] + self.spelling.stack(kind)
                single.setdefault(stack, {})[int(match["expert"])] = tensor
            elif (match := self._fused.fullmatch(name)) and self._has_both(tensor):
                out |= self._halves(match["layer"], tensor)
            else:
                out |= self._down(name, tensor)
        experts = c.count(self.count)
        for stack, parts in single.items():
            whole = len(parts) == experts and max(parts) == experts - 1
            if whole and len({tuple(part.shape) for part in parts.values()}) == 1:
                out[stack] = Stacked(stack, [parts[i] for i in range(experts)])
        return out

    def _has_both(self, tensor: Tensor) -> bool:
        """Whether a tensor may hold gates and ups: as many of one as of the other."""
        if not self.spelling.gated or len(tensor.shape) != 3:
            return False
        return self._turned(tensor.name, tensor).shape[1] % 2 == 0

    def _halves(self, layer: str, tensor: Tensor) -> dict[str, Tensor]:
        """The stacks of gates and ups of a layer."""
        tensor = self._turned(layer, tensor)
        half = tensor.shape[1] // 2
        stacks: dict[str, Tensor] = {}
        for number, kind in enumerate(("gate", "up")):
            stack = layer + self.spelling.stack(kind)
            if self.spelling.interleaved:
                stacks[stack] = part_of_each(stack, tensor, number, half, 2)
            else:
                stacks[stack] = part_of_each(stack, tensor, number * half, half)
        return stacks

    def _down(self, name: str, tensor: Tensor) -> dict[str, Tensor]:
        """The stack of downs, or any other tensor as it is."""
        layer = name.removesuffix(self.spelling.down)
        if not self.spelling.transposed or layer == name:
            return {name: tensor}
        stack = layer + self.spelling.stack("down")
        return {stack: self._turned(stack, tensor)}

    def _turned(self, name: str, tensor: Tensor) -> Tensor:
        """A tensor of a layer's experts with rows before columns, or the way back."""
        if not self.spelling.transposed or len(tensor.shape) != 3:
            return tensor
        # Packed checkpoints have rows before columns already.
        return Turned(name, tensor) if tensor.dtype in _FLOATS else tensor

    def spread(self, tensors: Mapping[str, Tensor], _: Config) -> dict[str, Tensor]:
        """As models are published: a matrix per expert, or gates and ups in one tensor."""
        out: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            kind, match = _first(self._stacks, name)
            if match is None:
                out[name] = tensor
            elif not self.spelling.fused:
                for index in range(tensor.shape[0]):
                    each = self._name(kind, match["layer"], index)
                    out[each] = one_of(each, tensor, index)
            elif kind == "down":
                down = match["layer"] + self.spelling.down
                out[down] = self._turned(down, tensor)
            elif kind == "gate":
                fused = match["layer"] + self.spelling.gate_up
                up = tensors[match["layer"] + self.spelling.stack("up")]
                both = _both(fused, tensor, up, interleaved=self.spelling.interleaved)
                out[fused] = self._turned(fused, both)
        return out

    def pieces(self, name: str, c: Config) -> list[str]:
        """Names of one stack's matrices."""
        kind, match = _first(self._stacks, name)
        if match is None:
            return [name]
        if self.spelling.fused:
            whole = self.spelling.down if kind == "down" else self.spelling.gate_up
            return [match["layer"] + whole]
        return [self._name(kind, match["layer"], i) for i in range(c.count(self.count))]

    def _name(self, kind: str, layer: str, index: int) -> str:
        return layer + self.spelling.each[kind].replace("{expert}", str(index))


class StacksOfEitherOrder(Stacks):
    """The same of checkpoints whose tensors of a layer have rows before columns, or after.

    Args:
        spelling: What checkpoints call them.
        count: Key of config.json with how many experts there are.
        width: Key of config.json with the width of one, which tells the order.
    """

    def __init__(self, spelling: Spelling, count: str, width: str) -> None:
        super().__init__(spelling, count)
        self._width = width
        self._down_of_layer = _pattern(spelling.down)

    def gather(self, tensors: Mapping[str, Tensor], c: Config) -> dict[str, Tensor]:
        """As of `Stacks`, with rows before columns."""
        sizes = {self._fused: (2 * c.count(self._width), c.hidden)}
        sizes[self._down_of_layer] = (c.hidden, c.count(self._width))
        ordered = dict(tensors)
        for name, tensor in tensors.items():
            rows = next((s for p, s in sizes.items() if p.fullmatch(name)), None)
            # Only where it is the other order to the letter: what is wrong keeps its shape.
            if (
                rows
                and len(tensor.shape) == 3
                and (*tensor.shape[:0:-1],) == rows != tensor.shape[1:]
            ):
                ordered[name] = Turned(name, tensor)
        return super().gather(ordered, c)


def _both(name: str, gates: Tensor, ups: Tensor, *, interleaved: bool) -> Tensor:
    """Stacks [experts, rows, columns] as one [experts, 2 rows, columns]."""
    experts, rows, columns = gates.shape
    pair = Stacked(name, [gates, ups])
    order = (1, 2, 0) if interleaved else (1, 0, 2)
    places = np.arange(2 * experts * rows).reshape(2, experts, rows).transpose(order).reshape(-1)
    return Picked(name, pair, (experts, 2 * rows, columns), places)


def _pattern(name: str) -> re.Pattern[str]:
    """A full match of a name inside any layer, those beside the model's (`mtp.layers`) included."""
    inside = re.escape(name).replace(r"\{expert\}", r"(?P<expert>\d+)")
    return re.compile(r"(?P<layer>(?:model|mtp)\.layers\.\d+\.)" + inside)


def _first(patterns: Mapping[str, re.Pattern[str]], name: str) -> tuple[str, re.Match[str] | None]:
    """The kind whose pattern a name is, and the match."""
    matches = ((kind, p.fullmatch(name)) for kind, p in patterns.items())
    return next(((kind, match) for kind, match in matches if match), ("", None))
