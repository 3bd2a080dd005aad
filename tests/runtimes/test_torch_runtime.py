"""PyTorch's engine goes back in its cache, whatever transformers calls that."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from helpers import tiny_models

from kanna import runtimes


def test_a_shared_beginning_is_kept(tmp_path: Path) -> None:
    tiny_models.make("smollm", tmp_path / "tiny")
    first, second = [1, 5, 9, 20, 33, 7], [1, 5, 9, 40, 41]
    with runtimes.get("torch").open(tmp_path / "tiny", context=64, threads=1) as engine:
        engine.logits(first, first=0, copy=True)
        assert engine.rewind(3) == 3
        kept = engine.logits(second, first=3, copy=True)
        assert engine.rewind(0) == 0
        fresh = engine.logits(second, first=3, copy=True)
    np.testing.assert_allclose(kept, fresh, atol=1e-4)
