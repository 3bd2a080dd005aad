"""What the head of a network reads of a text, computed with one layer in memory at a time."""

from __future__ import annotations

from typing import Any

from kanna.calibration.devices import torch_modules
from kanna.calibration.network import Network
from kanna.model import F32


def final_states(network: Network, ids: Any, *, states: F32 | None = None) -> Any:
    """Hidden states behind the last norm, f32 [windows, tokens, hidden], on the CPU.

    Args:
        network: The network.
        ids: int32 [windows, tokens].
        states: Where hidden states lie between layers, [windows, tokens, width]; None: in memory.
            The result may share it.
    """
    torch, _ = torch_modules()
    between = network.embed(ids, states)
    with torch.no_grad():
        for index in range(network.num_layers):
            with network.layer(index) as layer:
                for number, window in enumerate(between):
                    window.copy_(layer(window, number))
        norm, width = network.norm(), 0
        for window in between:
            final = norm(window.to(network.device))
            width = final.shape[1]
            window[:, :width] = final.cpu()
    return between[:, :, :width]
