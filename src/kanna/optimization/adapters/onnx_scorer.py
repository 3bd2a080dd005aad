"""Folders scored in onnxruntime against the float graph, on held-out calibration text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kanna.calibration.statistics import HELD_TEXT
from kanna.evaluation.divergence import compare
from kanna.model import F32
from kanna.optimization.accuracy_levels import GraphScore
from kanna.optimization.context import Workspace

WINDOWS, WINDOW = 8, 512


def held_windows(workspace: Workspace, graph: Path) -> list[list[int]]:
    """Token ids of the held-out text; [] where that is too short.

    Args:
        workspace: Of the calibrated source.
        graph: The folder of the float graph, which has the tokenizer.
    """
    import tokenizers

    text = (workspace.calibrated / HELD_TEXT).read_text(encoding="utf-8")
    tokenizer = tokenizers.Tokenizer.from_str((graph / "tokenizer.json").read_text("utf-8"))
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    limit = workspace.model.whole("{arch}.context_length", 0) or WINDOW
    length = min(WINDOW, limit, len(ids))
    if length < 2:
        return []
    return [ids[i : i + length] for i in range(0, len(ids) - length + 1, length)][:WINDOWS]


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphScorer:
    """Means over the second half of windows.

    Attributes:
        graph: The folder of the float graph, which is read once.
        windows: Token ids, all of one length.
        threads: Of onnxruntime; None: as it likes.
    """

    graph: Path
    windows: Sequence[list[int]]
    threads: int | None
    _exact: list[F32] = field(default_factory=list[F32])

    def score(self, folder: Path) -> GraphScore:
        """How far a folder is from the float graph."""
        if not self._exact:
            self._exact.extend(self._logits(self.graph))
        kl: list[float] = []
        top1: list[float] = []
        for window, exact, logits in zip(
            self.windows, self._exact, self._logits(folder), strict=True
        ):
            targets = np.array(window[len(window) // 2 + 1 :])
            _, (scores,) = compare(exact, [logits], targets, threads=self.threads or 1)
            kl.append(float(scores.kl.mean()))
            top1.append(float(scores.top1.mean()))
        return GraphScore(kl=float(np.mean(kl)), top1=float(np.mean(top1)))

    def _logits(self, folder: Path) -> list[F32]:
        from kanna.runtimes.onnx import RUNTIME

        length = len(self.windows[0])
        with RUNTIME.open(folder, context=length, threads=self.threads) as engine:
            return [
                np.array(engine.logits(w, first=length // 2)[:-1], np.float32) for w in self.windows
            ]
