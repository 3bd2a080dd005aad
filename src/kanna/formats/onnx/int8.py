"""Int8 graphs, made by onnxruntime's quantizer in a process of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kanna._util.interpreter import module_command
from kanna._util.processes import run
from kanna._util.progress import Progress
from kanna.errors import KannaError


def quantize(
    source: Path,
    out: Path,
    scratch: Path,
    *,
    ids: NDArray[np.int64] | None,
    calibrator: str,
    cache: Sequence[int] = (),
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    smoothing: bool = True,
    bits: int = 8,
    wide: bool = False,
    by_matrix: Mapping[str, int] | None = None,
    progress: Progress,
) -> dict[str, Any]:
    """Quantize the float graph `source`/model.onnx into `out`; figures of what was done.

    Args:
        source: Folder of the float graph.
        out: Folder of the quantized one.
        scratch: Folder for what is handed to the process.
        ids: Calibration text, [windows, tokens]; None: codes that stand for nothing, to see their
            room.
        calibrator: Of static QDQ (W8A8), one of `ranges.CALIBRATORS`; "": dynamic int8.
        cache: Heads and width of a decoder's cache.
        include: Patterns of the names of products that are quantized; none: all.
        exclude: Patterns of the names of products that stay float.
        smoothing: Fold outliers of activations into norms where it lowers the error.
        bits: Of a weight, 8, or 4 where activations are wide.
        wide: Whether activations have 16 bits.
        by_matrix: Bits by initializer, where activations are wide and matrices differ; None: all
            have `bits`.
        progress: Where progress is reported.

    Raises:
        KannaError: The quantizer failed; with its last line.
    """
    feeds = scratch / "feeds.npy"
    if ids is not None:
        np.save(feeds, ids)
    task = {
        "source": str(source),
        "out": str(out),
        "calibrator": calibrator,
        "feeds": str(feeds) if ids is not None else "",
        "cache": list(cache),
        "patterns": {"included": list(include), "excluded": list(exclude)},
        "smoothing": smoothing,
        "wide": 0 if not wide else bits if by_matrix is None else dict(by_matrix),
    }
    command = module_command("kanna.formats.onnx.int8_worker", json.dumps(task))
    progress.start("quantize to int8", None, "products")
    try:
        done = run(command)
    finally:
        progress.finish()
    try:
        figures: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise KannaError(
            f"onnxruntime's quantizer ended with code {done.returncode}: {lines[-1]}"
        ) from None
    return figures
