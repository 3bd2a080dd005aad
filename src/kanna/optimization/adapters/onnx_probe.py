"""What kinds of nodes cost in onnxruntime: each in 4 bits alone, the others in 8."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kanna._util import own_files
from kanna.calibration.statistics import HELD_TEXT
from kanna.evaluation.divergence import compare
from kanna.model import F32
from kanna.optimization.context import Workspace
from kanna.optimization.probe import kind_of
from kanna.plan import Plan, RuleModel

LOW, HIGH = "nbits4g32", "nbits8g32"
WINDOWS, WINDOW = 8, 512
_JOINED: Mapping[str, str] = {
    **dict.fromkeys(("attn_q", "attn_k", "attn_v"), "attn_qkv"),
    **dict.fromkeys(("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"), "ffn_exps"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ONNXProber:
    """Every kind of node in 4 bits alone, the others in 8, against the float graph.

    Attributes:
        graph: The folder of the float graph.
        costs: Predicted, by tensor and encoding.
        write: Writes the folder of a plan.
    """

    workspace: Workspace
    graph: Path
    costs: Mapping[str, Mapping[str, float]]
    write: Callable[[Plan, Path], None]

    def _probed(self) -> list[str]:
        return [n for n, options in self.costs.items() if LOW in options and HIGH in options]

    def kinds(self) -> Mapping[str, Sequence[str]]:
        """Every kind of node; q, k and v are one, and so are all stacks of experts."""
        kinds: dict[str, list[str]] = {}
        for name in self._probed():
            kind = kind_of(name)
            kinds.setdefault(_JOINED.get(kind, kind), []).append(name)
        return kinds

    def predicted(self, names: Sequence[str]) -> float:
        """What 4 bits should cost more than 8."""
        return sum(self.costs[n][LOW] - self.costs[n][HIGH] for n in names)

    @contextmanager
    def trials(self) -> Generator[Callable[[Sequence[str]], float]]:
        """A function that writes and scores a folder."""
        score = self.score()
        with own_files.scratch(self.workspace.folder, "probe") as scratch:

            def divergence(names: Sequence[str]) -> float:
                rules = [
                    RuleModel(pattern=f"^{n}$", encoding=LOW, method="gptq")
                    if n in names
                    else RuleModel(pattern=f"^{n}$", encoding=HIGH, method="nearest")
                    for n in self._probed()
                ]
                folder = scratch / "probe"
                self.write(Plan(name="probe", encoding="f32", rules=rules), folder)
                return score(folder)

            yield divergence

    def score(self) -> Callable[[Path], float]:
        """A function that gives the mean KL divergence of a folder from the float graph.

        Over the second half of windows of the held-out text.
        """
        import tokenizers

        from kanna.runtimes.onnx import RUNTIME

        text = (self.workspace.calibrated / HELD_TEXT).read_text(encoding="utf-8")
        threads = self.workspace.context.threads
        tokenizer = tokenizers.Tokenizer.from_str(
            (self.graph / "tokenizer.json").read_text(encoding="utf-8")
        )
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
        limit = self.workspace.model.whole("{arch}.context_length", 0) or WINDOW
        length = min(WINDOW, limit, len(ids))
        windows = [ids[i : i + length] for i in range(0, len(ids) - length + 1, length)][:WINDOWS]

        def logits(folder: Path) -> list[F32]:
            with RUNTIME.open(folder, context=length, threads=threads) as engine:
                return [
                    np.array(engine.logits(w, first=len(w) // 2)[:-1], np.float32) for w in windows
                ]

        exact: list[F32] = []

        def score(folder: Path) -> float:
            if not exact:
                exact.extend(logits(self.graph))
            means: list[float] = []
            for window, reference, candidate in zip(windows, exact, logits(folder), strict=True):
                targets = np.array(window[len(window) // 2 + 1 :])
                _, (divergence,) = compare(reference, [candidate], targets, threads=threads or 1)
                means.append(float(divergence.kl.mean()))
            return float(np.mean(means))

        return score
