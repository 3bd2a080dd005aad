"""How far a file in llama.cpp is from what PEFT computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from kanna.runtimes.llamacpp import RUNTIME

IDS = list(range(5, 45))


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def divergence(model: Any, file: Path) -> float:
    """Mean KL divergence of a file in llama.cpp from PEFT's model, in nats."""
    import torch

    with torch.no_grad():
        p = log_probabilities(model(torch.tensor([IDS])).logits[0].numpy())
    with RUNTIME.open(file, context=64, threads=1) as engine:
        q = log_probabilities(engine.logits(IDS))
    return float((np.exp(p) * (p - q)).sum(axis=-1).mean())
