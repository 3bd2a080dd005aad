"""Hidden states of several streams (Gemma 3n), side by side: [tokens, streams × hidden].

Only the first is the embedding; the others are projected from it before the first layer, and all of
them become one again behind the last.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from kanna.calibration.devices import torch_modules

INTO, OUT_OF = "altup_projections", "altup_unembed_projections"
"""Modules with a matrix for every stream beside the first."""
_LEAST = 1e-5
"""Mean square below which a stream is not raised to the size of the first."""


class StreamLayout:
    """How a network's hidden states are laid out.

    Attributes:
        count: Streams of a network; most have one.
    """

    def __init__(self, body: Any) -> None:
        """Look at a network.

        Args:
            body: The model of transformers, without weights.
        """
        self._body = body
        self.count = 1 + len(getattr(body, INTO, ()))

    def split(self, states: Any) -> Any:
        """What layers take, [1, T, hidden] or [streams, 1, T, hidden], of states of a window."""
        if self.count == 1:
            return states[None]
        return states.view(len(states), self.count, -1).transpose(0, 1)[:, None]

    def joined(self, given: Any) -> Any:
        """The states of a window of what layers take and give."""
        if self.count == 1:
            return given[0]
        return given[:, 0].transpose(0, 1).reshape(given.shape[2], -1)

    def aside(self, projections: Any) -> dict[str, Any]:
        """Attributes of the body, so that it computes what enters its first layer and no more.

        Args:
            projections: The matrices of the streams, filled; None: of a network of one stream.
        """
        if self.count == 1:
            return {}
        torch, _ = torch_modules()
        nothing = torch.nn.ModuleList(torch.nn.Identity() for _ in range(1, self.count))
        read = torch.zeros(1, 1, len(self._body.layers), 1)
        return {
            INTO: projections,
            OUT_OF: nothing,
            # What each layer reads of its own is computed with the layer.
            "get_per_layer_inputs": _nothing,
            "project_per_layer_inputs": partial(_read, read),
        }

    def closed(self, norm: Any, projections: Any) -> Any:
        """A module from the states behind the last layer to what the head reads, [T, hidden].

        Args:
            norm: The last normalisation, filled.
            projections: The matrices that lead out of the streams, filled.
        """
        torch, _ = torch_modules()
        split = self.split

        class Closing(torch.nn.Module):
            """Every stream projected and brought to the size of the first; their mean."""

            def forward(self, states: Any) -> Any:
                first, *others = split(states)[:, 0]
                size = first.square().mean(-1, keepdim=True).sqrt()
                total = first
                for stream, projection in zip(others, projections, strict=True):
                    out = projection(stream)
                    own = out.square().mean(-1, keepdim=True).clamp(min=_LEAST).sqrt()
                    total = total + out * size / own
                return norm(total / (1 + len(others)))

        return Closing()


def _nothing(_ids: Any) -> None:
    return None


def _read(read: Any, _embedded: Any, _given: Any) -> Any:
    return read
