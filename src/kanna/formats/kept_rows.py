"""The input of a decoder's graph that says after how many of the last tokens logits are computed.

A prompt's last token alone is looked at while a model writes: logits of the others would take
`vocabulary` numbers each. No file has this input: it is added to the graph that a runtime is given
(`formats/onnx/last_rows.py`, `formats/openvino/last_rows.py`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

KEPT = "kept_rows"
"""Its name; i64 [1]."""


def kept_rows(count: int) -> NDArray[np.int64]:
    """Its value; one row is computed at least."""
    return np.array([max(1, count)], np.int64)
