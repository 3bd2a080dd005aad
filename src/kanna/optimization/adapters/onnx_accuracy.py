"""accuracy_level of every kind of node, chosen in onnxruntime: the data lies once for all trials.

The level is an attribute of nodes. Trials share the weights of the written folder by hard links.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kanna._util import own_files
from kanna._util.atomic import write_bytes
from kanna._util.progress import Progress
from kanna.encodings.grouped.nbits import parse
from kanna.formats.onnx.build import GRAPH
from kanna.optimization.accuracy_levels import AccuracyResult, GraphScore, KindLevel, over
from kanna.optimization.probe import kind_of
from kanna.plan import Plan
from kanna.plan import onnx as presets

HEAD = "output"
_JOINED: Mapping[str, str] = {
    **dict.fromkeys(("attn_q", "attn_k", "attn_v"), "attn_qkv"),
    **dict.fromkeys(("ffn_gate", "ffn_up"), "ffn_up_gate"),
}


def kinds_of(plan: Plan, nodes: Sequence[Sequence[str]], tied: bool) -> dict[str, list[str]]:
    """Kind of node → its matrices that have codes; experts and looked up rows have no level.

    Args:
        plan: One rule per matrix.
        nodes: The matrices of each node.
        tied: Whether the embedding is the head, too.
    """
    coded = {r.pattern for r in plan.rules if parse(r.encoding) is not None}
    kinds: dict[str, list[str]] = {}
    for name in (name for members in nodes for name in members):
        kind = kind_of(name)
        if kind == "token_embd":
            if not tied:
                continue
            kind = HEAD
        if kind.endswith("_exps") or _pattern(name) not in coded:
            continue
        kinds.setdefault(_JOINED.get(kind, kind), []).append(name)
    return kinds


def leveled(plan: Plan, floats: Collection[str]) -> Plan:
    """The plan whose nodes of the matrices `floats` multiply in float32, the others as they do."""
    patterns = {_pattern(name) for name in floats}
    rules = [
        rule.model_copy(update={"accuracy": presets.EXACT if rule.pattern in patterns else None})
        for rule in plan.rules
    ]
    return plan.model_copy(update={"rules": rules})


def _pattern(name: str) -> str:
    return f"^{re.escape(name)}$"


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelTrials:
    """What chooses the levels of a written folder.

    Attributes:
        plan: What it was written by, with no level in it.
        artefact: The folder.
        kinds: See `kinds_of`.
        graph: Gives the graph of a plan that differs in levels alone.
        score: Of a folder.
        progress: Where to report.
    """

    plan: Plan
    artefact: Path
    kinds: Mapping[str, Sequence[str]]
    graph: Callable[[Plan | Path], bytes]
    score: Callable[[Path], GraphScore]
    progress: Progress

    def settle(self, plan: Path, *, free: bool) -> AccuracyResult:
        """Measure every kind, and leave those in floats that cost too much otherwise.

        Args:
            plan: The plan file, which is written anew where a level changes, as is the graph.
            free: Whether levels may change; floats are slower.
        """
        everything = [name for names in self.kinds.values() for name in names]
        self.progress.start("accuracy", len(self.kinds) + 3, "graphs")
        with own_files.scratch(self.artefact.parent, "levels") as scratch:
            trial = scratch / self.artefact.name
            shutil.copytree(self.artefact, trial, copy_function=_link)

            def scored(floats: Collection[str]) -> GraphScore:
                (trial / GRAPH).unlink()  # a name of the folder's own graph
                (trial / GRAPH).write_bytes(self.graph(leveled(self.plan, floats)))
                result = self.score(trial)
                self.progress.advance(1)
                return result

            weights, rounded = scored(everything), scored(())
            alone = {
                kind: scored([n for n in everything if n not in names])
                for kind, names in self.kinds.items()
            }
            costly = over(weights, alone) if free else []
            floats = [kind for kind in costly if self._able(kind)]
            names = [name for kind in floats for name in self.kinds[kind]]
            chosen = scored(names) if names else rounded
            if chosen.kl >= rounded.kl:
                floats, names, chosen = [], [], rounded
        self.progress.finish()
        if names:
            leveled(self.plan, names).save(plan)
            write_bytes(self.artefact / GRAPH, self.graph(plan))
        kinds = [
            KindLevel(
                kind=kind,
                rounded=score,
                cost=score.kl - weights.kl,
                able=self._able(kind),
                floats=kind in floats,
            )
            for kind, score in alone.items()
        ]
        return AccuracyResult(weights=weights, rounded=rounded, kinds=kinds, chosen=chosen)

    def _able(self, kind: str) -> bool:
        """Whether onnxruntime multiplies floats by the codes of all of its matrices."""
        patterns = {_pattern(name) for name in self.kinds[kind]}
        used = [parse(r.encoding) for r in self.plan.rules if r.pattern in patterns]
        return all(code is not None and code.bits in presets.KERNELS for code in used)


def _link(source: str, target: str) -> None:
    """A second name for a file; a copy where the file system has no such names."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
