"""What every optimization goes through, whatever it writes: a clock, and the backward pass."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from kanna._util.progress import Progress
from kanna._util.units import format_size
from kanna.calibration import gradients, statistics, texts
from kanna.calibration.windows import cut
from kanna.errors import KannaError
from kanna.hardware.memory import memory as machine
from kanna.model import Model


class Clock:
    """Seconds since the last stage ended, by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def stage(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = round(now - self._last, 2)
        self._last = now


def sensitivity(
    model: Model,
    stats: Path,
    calibration: Sequence[str | Path] | None,
    tokens: int,
    device: str | None,
    bar: Progress,
    notes: list[str],
) -> None:
    """The backward pass, where there is memory for it."""
    needed, free = gradients.bytes_needed(model), machine().available
    if needed > free:
        notes.append(
            f"a backward pass takes {format_size(needed)}, {format_size(free)} are free: tensors were weighed by their "
            "relative errors instead of their gradients"
        )
        return
    windows = cut(texts.documents(calibration, model)[0], model, tokens=tokens)
    try:
        gradients.gradients(
            model, windows, stats, statistics.read(stats).sha256, device=device, progress=bar
        )
    except KannaError as error:
        notes.append(
            f"{error.found}: tensors were weighed by their relative errors instead of their gradients"
        )
