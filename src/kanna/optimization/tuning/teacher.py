"""The original's predictions on some windows: hidden states in a file, and a head in its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kanna._util import mapped_file
from kanna.calibration.final_states import final_states
from kanna.calibration.network import Network
from kanna.calibration.shared_states import SharedStates
from kanna.model import Model, Tensor


class Teacher:
    """It runs once, one layer at a time.

    Attributes:
        states: What the head reads, f32 [windows, T, hidden].
        head: The head that reads them, [V, hidden].
    """

    def __init__(self, model: Model, ids: Any, device: str | None, folder: Path) -> None:
        """Run it.

        Args:
            model: The original.
            ids: int32 [windows, T].
            device: cpu, cuda or mps; None: an accelerator when there is one.
            folder: Where the states lie.
        """
        network = Network(model, device, SharedStates(folder))
        states = mapped_file.zeros(folder / "teacher.f32", (*ids.shape, network.width))
        self.states = final_states(network, ids, states=states)
        self.head: Tensor = network.weights.head
