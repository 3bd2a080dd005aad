"""What takes the place of a part of a network while another runs, and what parts are called."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from inspect import signature
from typing import Any


@contextmanager
def put_aside(module: Any, attributes: dict[str, Any]) -> Generator[None]:
    """Attributes of a module as they are given, until the block ends."""
    before = {name: getattr(module, name) for name in attributes}
    try:
        for name, value in attributes.items():
            setattr(module, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(module, name, value)


def called(body: Any, *names: str) -> str:
    """The first of some names that a part of a network has."""
    return next(name for name in names if hasattr(body, name))


def restore_computed(module: Any) -> None:
    """Set factors again that are computed, not stored: an emptied module lost them.

    Those of Gemma's embeddings and streams, and Falcon-H1's of states, which its weights hold here.
    """
    for part in module.modules():
        if hasattr(part, "router_input_scale"):
            part.router_input_scale.fill_(1 / part.config.hidden_size)
        if hasattr(part, "altup_projections"):
            part.per_layer_projection_scale.fill_(part.config.hidden_size**-0.5)
            part.per_layer_input_scale.fill_(2**-0.5)
        if hasattr(part, "embed_scale"):
            part.embed_scale.fill_(part.scalar_embed_scale)
        if hasattr(part, "mup_vector"):
            part.mup_vector.fill_(1.0)


def body_of_states(torch: Any) -> Any:
    """A module that gives the hidden states it was given, for a head to read."""

    class Body(torch.nn.Module):
        """Takes the place of all layers: gives the hidden states that it was given."""

        lm_head_multiplier = 1.0  # asked for by the head of Falcon-H1, whose weights hold it

        def __init__(self) -> None:
            super().__init__()
            self.states: Any = None

        def forward(self, *_: Any, **_arguments: Any) -> Any:
            return _Output(self.states)

    return Body()


class _Output:
    """What the body of a model of transformers returns; nothing but the last hidden states."""

    def __init__(self, last_hidden_state: Any) -> None:
        self.last_hidden_state = last_hidden_state

    def __getitem__(self, index: int) -> Any:
        return self.last_hidden_state if index == 0 else None

    def __getattr__(self, name: str) -> None:
        return None


def recorder_of(layer: Any, torch: Any) -> Any:
    """A module in the place of `layer`, of which the network asks no more than its kind."""
    # Falcon-H1 alone takes what its layers give apart; annotations do not tell.
    in_tuple = type(layer).__name__.startswith("FalconH1")
    names = list(signature(layer.forward).parameters)[1:]

    class Recorder(torch.nn.Module):
        """Takes the place of a layer: passes hidden states on and records the other arguments."""

        def __init__(self) -> None:
            super().__init__()
            self.hidden_states: Any = None
            self.arguments: dict[str, Any] = {}
            self.block_type = getattr(layer, "block_type", None)

        def forward(self, hidden_states: Any, *further: Any, **arguments: Any) -> Any:
            self.hidden_states = hidden_states
            self.arguments = dict(zip(names, further, strict=False)) | arguments
            return (hidden_states,) if in_tuple else hidden_states

    return Recorder()
