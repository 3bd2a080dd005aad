"""Logits of an ONNX folder, in onnxruntime."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np


def logits(folder: Path, ids: np.ndarray) -> np.ndarray:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options)
    decoder = json.loads((folder / "genai_config.json").read_text())["model"]["decoder"]
    feed: dict[str, Any] = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    empty = np.zeros((1, decoder["num_key_value_heads"], 0, decoder["head_size"]), np.float32)
    feed |= {i.name: empty for i in session.get_inputs() if i.name.startswith("past")}
    if any(i.name == "position_ids" for i in session.get_inputs()):
        feed["position_ids"] = np.arange(ids.shape[1], dtype=np.int64)[None]
    return session.run(["logits"], feed)[0][0]
