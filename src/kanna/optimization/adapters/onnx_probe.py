"""What kinds of nodes cost in onnxruntime: each in 4 bits alone, the others in 8."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kanna._util import own_files
from kanna.optimization.adapters.onnx_scorer import GraphScorer, held_windows
from kanna.optimization.context import Workspace
from kanna.optimization.probe import kind_of
from kanna.plan import Plan, RuleModel

LOW, HIGH = "nbits4g32", "nbits8g32"
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
        windows = held_windows(self.workspace, self.graph)
        threads = self.workspace.context.threads
        scorer = GraphScorer(graph=self.graph, windows=windows, threads=threads)
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
                return scorer.score(folder).kl

            yield divergence
