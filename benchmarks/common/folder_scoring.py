"""KL divergence of folders from the source, on held-out text of several kinds."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
from benchmarks.common.workload import Workload

import kanna
from kanna import runtimes
from kanna.evaluation.divergence import compare

Logits = dict[str, list[np.ndarray]]
"""Kind of text → of each window, logits [positions, vocabulary] of its second half."""


def mean(kl: dict[str, float]) -> float:
    """Over the kinds of text, each counting the same."""
    return float(np.mean(list(kl.values())))


class Scorer(ABC):
    """KL divergence in nats from the same reference, by kind of text."""

    def __init__(self, workload: Workload, reference: Path) -> None:
        self.workload, self.reference = workload, reference
        self.tokens = workload.held_out_tokens()
        self._exact: Logits = {}

    def kl(self, folder: Path) -> dict[str, float]:
        """Mean over the second half of every window."""
        self._exact = self._exact or self.logits(self.reference)
        candidate = self.logits(folder)
        result: dict[str, float] = {}
        for kind, windows in self.tokens.items():
            divergences: list[float] = []
            for ids, exact, logits in zip(windows, self._exact[kind], candidate[kind], strict=True):
                _, [comparison] = compare(exact, [logits], ids[len(ids) // 2 + 1 :], threads=2)
                divergences.append(float(comparison.kl.mean()))
            result[kind] = float(np.mean(divergences))
        return result

    @abstractmethod
    def logits(self, path: Path) -> Logits:
        """What an artefact predicts on the held-out text."""


class DecodedScorer(Scorer):
    """Scores the values of a folder: decoded into float32, in llama.cpp, as the source is.

    mlx takes hours for this on a Linux CPU; tests/runtimes/test_mlx_runtime.py holds mlx to those
    values.
    """

    def __init__(self, workload: Workload) -> None:
        super().__init__(workload, workload.path)

    def logits(self, path: Path) -> Logits:
        """In llama.cpp."""
        decoded = self.workload.folder / "decoded.gguf"
        kanna.convert(path, decoded, encoding="f32", overwrite=True)
        context = max(len(ids) for windows in self.tokens.values() for ids in windows)
        runtime = runtimes.get("llamacpp")
        try:
            with runtime.open(decoded, context=context, threads=self.workload.threads) as engine:
                return {
                    kind: [
                        np.array(engine.logits(ids.tolist(), first=len(ids) // 2)[:-1])
                        for ids in windows
                    ]
                    for kind, windows in self.tokens.items()
                }
        finally:
            decoded.unlink()


class OnnxScorer(Scorer):
    """Scores ONNX folders as written, in stock onnxruntime, beside the float32 graph there."""

    def logits(self, path: Path) -> Logits:
        """In onnxruntime."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = self.workload.threads
        session = onnxruntime.InferenceSession(str(path / "model.onnx"), options)
        decoder = json.loads((path / "genai_config.json").read_text())["model"]["decoder"]
        empty = np.zeros((1, decoder["num_key_value_heads"], 0, decoder["head_size"]), np.float32)
        past = {i.name: empty for i in session.get_inputs() if i.name.startswith("past")}

        def read(ids: np.ndarray) -> np.ndarray:
            feed = {
                "input_ids": ids[None].astype(np.int64),
                "attention_mask": np.ones((1, len(ids)), np.int64),
            }
            return session.run(["logits"], feed | past)[0][0][len(ids) // 2 : -1].astype(np.float32)

        return {kind: [read(ids) for ids in windows] for kind, windows in self.tokens.items()}
