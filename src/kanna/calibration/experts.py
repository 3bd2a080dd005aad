"""Experts as one module for each: those of transformers hold the matrices of a layer in two stacks.

Apart, every matrix is a linear layer as any other: its inputs are those of the tokens that are
routed to it, and it is filled under the name that checkpoints give it.
"""

from __future__ import annotations

import re
from inspect import signature
from typing import Any

EXPERT = re.compile(
    r"model\.layers\.(?P<layer>\d+)\..*experts\.(?P<expert>\d+)\.(?P<kind>gate|up|down)_proj"
)
"""Path of a matrix of an expert that was taken apart."""
ROUTER = re.compile(r"model\.layers\.(?P<layer>\d+)\..*\.(gate|router)\.weight")
"""Weight of a router, where checkpoints call its module otherwise."""
STACKS = (("gate_up_proj", "down_proj"), ("up_proj", "down_proj"))
"""Parameters of a module that holds all experts of a layer, [experts, rows, columns]; those of
Nemotron have no gates."""


def take_apart(network: Any, torch: Any) -> None:
    """Put a module for each expert in the place of every stack of them; no weights are kept.

    Args:
        network: A network of transformers without weights.
        torch: PyTorch.
    """
    stacks = [
        (parent, name, child)
        for parent in network.modules()
        for name, child in parent.named_children()
        if any(all(_is_stack(child, name) for name in names) for names in STACKS)
    ]
    with torch.device("meta"):
        for parent, name, child in stacks:
            setattr(parent, name, _apart(child, torch))


def _is_stack(module: Any, name: str) -> bool:
    return getattr(getattr(module, name, None), "ndim", 0) == 3


def _apart(stack: Any, torch: Any) -> Any:
    """A module in the place of `stack` with one for each expert."""
    of_one = _expert(stack, torch)
    scaled = len(signature(stack.forward).parameters) == 1
    of_all = _scaled_experts(torch) if scaled else _experts(torch)
    return of_all([of_one() for _ in range(len(stack.down_proj))])


def _expert(stack: Any, torch: Any) -> Any:
    _, hidden, width = stack.down_proj.shape
    gated = hasattr(stack, "gate_up_proj")
    if gated and stack.gate_up_proj.shape[1] == width:
        hidden, width = width, hidden  # inputs before outputs: gpt-oss, Llama 4
    alternate = getattr(stack, "is_transposed", False)
    bias, act = getattr(stack, "has_bias", False), getattr(stack, "act_fn", torch.nn.Identity())

    class Expert(torch.nn.Module):
        """One expert: gate, if it has one, up and down."""

        def __init__(self) -> None:
            super().__init__()
            if gated:
                self.gate_proj = torch.nn.Linear(hidden, width, bias=bias)
            self.up_proj = torch.nn.Linear(hidden, width, bias=bias)
            self.down_proj = torch.nn.Linear(width, hidden, bias=bias)

        def forward(self, x: Any) -> Any:
            if not gated:
                return self.down_proj(act(self.up_proj(x)))
            gate, up = self.gate_proj(x), self.up_proj(x)
            if not alternate:
                return self.down_proj(act(gate) * up)
            # Of gpt-oss, whose rows of gate and up alternate.
            both = torch.stack([gate, up], -1).flatten(-2)
            return self.down_proj(stack._apply_gate(both))

    return Expert


def _experts(torch: Any) -> Any:
    class Experts(torch.nn.ModuleList):
        """All experts of a layer; of each token, those that the router chose are computed."""

        is_experts = True

        def routed(self, hidden_states: Any, chosen: Any, _shares: Any) -> tuple[Any, Any]:
            """What the chosen experts read, and which they are: of what `forward` is given."""
            return hidden_states, chosen

        def forward(self, hidden_states: Any, chosen: Any, shares: Any) -> Any:
            """Sum of the chosen experts' outputs.

            Args:
                hidden_states: [tokens, hidden].
                chosen: Which experts each token goes to, [tokens, experts of a token].
                shares: What their outputs are multiplied by, in the same shape.
            """
            out = torch.zeros_like(hidden_states)
            for number, expert in enumerate(self):
                token, slot = torch.where(chosen == number)
                if len(token):
                    part = expert(hidden_states[token]) * shares[token, slot, None]
                    out = out.index_add(0, token, part)
            return out

    return Experts


def _scaled_experts(torch: Any) -> Any:
    class ScaledExperts(torch.nn.ModuleList):
        """The same of Llama 4, whose router scales what an expert reads, with 0 for most tokens."""

        is_experts = True

        def routed(self, scaled: Any) -> tuple[Any, Any]:
            """Rows that are not of zeros, and whose they are: [n, hidden], [n, 1]."""
            by_expert = scaled.view(len(self), -1, scaled.shape[-1])
            chosen = torch.where(by_expert.any(-1))[0]
            return by_expert[by_expert.any(-1)], chosen[:, None]

        def forward(self, scaled: Any) -> Any:
            """Outputs of all experts, one expert's tokens after another's.

            Args:
                scaled: What they read, [experts × tokens, hidden].
            """
            out = torch.zeros_like(scaled)
            numbers = torch.arange(len(scaled), device=scaled.device).view(len(self), -1)
            for own, expert in zip(numbers, self, strict=True):
                rows = own[scaled[own].any(-1)]
                if len(rows):
                    out = out.index_copy(0, rows, expert(scaled[rows]))
            return out

    return ScaledExperts
