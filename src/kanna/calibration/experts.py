"""Experts as one module for each: those of transformers hold the matrices of a layer in two stacks.

Apart, every matrix is a linear layer as any other: its inputs are those of the tokens that are
routed to it, and it is filled under the name that checkpoints give it.
"""

from __future__ import annotations

import re
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
    count, hidden, width = stack.down_proj.shape
    if turned := getattr(stack, "is_transposed", False):
        hidden, width = width, hidden
    bias, act = getattr(stack, "has_bias", False), getattr(stack, "act_fn", torch.nn.Identity())
    gated = hasattr(stack, "gate_up_proj")

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
            if not turned:
                return self.down_proj(act(gate) * up)
            # Of gpt-oss, whose rows of gate and up alternate.
            both = torch.stack([gate, up], -1).flatten(-2)
            return self.down_proj(stack._apply_gate(both))

    class Experts(torch.nn.ModuleList):
        """All experts of a layer; of each token, those that the router chose are computed."""

        is_experts = True

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

    return Experts([Expert() for _ in range(count)])
