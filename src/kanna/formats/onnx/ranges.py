"""Ranges of activations for static quantization, from what a graph computes on calibration text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from kanna.model import F32

CALIBRATORS = {
    "minmax": "the smallest and the largest value seen",
    "percentile": "what holds 99.99 % of all values (onnxruntime's histograms)",
    "entropy": "the range whose 8-bit histogram diverges least from that of the values"
    " (onnxruntime's)",
}
PERCENTILE = 99.99
# Entropy with 128 bins, the default, would find nothing to leave out: there are as many codes.
_BINS = {"percentile": 2048, "entropy": 1024}


def ranges(batches: Iterable[Mapping[str, F32]], calibrator: str) -> dict[str, tuple[float, float]]:
    """Lowest and highest value by tensor name; `batches` are read one at a time, never kept."""
    if calibrator == "minmax":
        seen: dict[str, tuple[float, float]] = {}
        for batch in batches:
            for name, x in batch.items():
                low, high = float(x.min()), float(x.max())
                old = seen.get(name, (low, high))
                seen[name] = (min(low, old[0]), max(high, old[1]))
        return seen
    from onnxruntime.quantization.calibrate import HistogramCollector

    bins = _BINS[calibrator]
    collector: Any = HistogramCollector(calibrator, False, bins, 128, PERCENTILE, "same")
    for batch in batches:
        collector.collect({name: np.ascontiguousarray(x) for name, x in batch.items()})
    limits = collector.compute_collection_result()
    return {name: (float(v[0]), float(v[1])) for name, v in limits.items()}
