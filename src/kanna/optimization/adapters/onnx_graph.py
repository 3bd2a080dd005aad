"""What optimizations of ONNX folders start from: the float graph of the source, node by node."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from kanna import encodings
from kanna._util import own_files
from kanna._util.atomic import write_text
from kanna.conversion import ConversionRequest, Guidance, expert_nodes
from kanna.conversion.nbits import NBitsConversion, NBitsSizes
from kanna.encodings.grouped.nbits import parse
from kanna.errors import UsageError
from kanna.formats.onnx import build
from kanna.model import columns, num_rows
from kanna.optimization.adapters.base import Adapter
from kanna.optimization.constraints import Constraints
from kanna.optimization.measure import Measured
from kanna.optimization.search import NAME
from kanna.plan import Plan
from kanna.plan import onnx as presets
from kanna.plan.allocate import Choice, Option


def matrix_bytes(rows: int, cols: int, encoding: str) -> int:
    """Bytes of a matrix in the external data, with what aligns its planes."""
    kind = parse(encoding)
    return rows * (kind or encodings.get(encoding)).row_bytes(cols)


class GraphAdapter(Adapter):
    """ONNX folders made from the float graph of the source, one encoding per node."""

    format: ClassVar[str] = "onnx"
    sizes_from_headers = False
    takes_provider = True

    @property
    def full(self) -> str:
        """Graphs compute in float32."""
        return "f32"

    def check_available(self) -> None:
        """The builder of the graph."""
        build.require()

    @property
    def graph(self) -> Path:
        """The float32 graph of the source, in a folder of its own."""
        return self.workspace.folder / "graph"

    def prepare(self) -> None:
        """Build the float graph, unless that of the same source is there."""
        context = self.workspace.context
        context.clock.restart()
        mark = self.workspace.folder / "graph.json"
        hashes = json.dumps(self.workspace.source.hashes(), sort_keys=True)
        if not (
            self.graph.is_dir() and mark.is_file() and mark.read_text(encoding="utf-8") == hashes
        ):
            self._build()
            write_text(mark, hashes)
        context.clock.lap("graph")

    def _build(self) -> None:
        folder = self.workspace.folder
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self.graph, ignore_errors=True)
        with own_files.scratch(folder, "graph") as scratch:
            running = self.workspace.context.running()
            request = ConversionRequest(preset=presets.DEFAULT)
            workspace = self.workspace
            work = NBitsConversion(workspace.source, workspace.model, folder / NAME, request)
            work.build(scratch, running).replace(self.graph)

    @cached_property
    def sizes(self) -> NBitsSizes:
        """What sizes whole folders, and knows their nodes."""
        return self.sizes_with(Guidance())

    def sizes_with(self, guidance: Guidance) -> NBitsSizes:
        """What sizes folders that are made by this guidance."""
        raise NotImplementedError

    @cached_property
    def nodes(self) -> list[list[str]]:
        """The matrices of each node, by GGUF name: q, k and v are one, and a layer's experts."""
        nodes: list[list[str]] = []
        for ours in self.sizes.gguf_names.values():
            members = self.sizes.joined(ours)
            if members[0] == ours:
                nodes.append(members)
        return nodes

    def choices(
        self,
        measured: Measured,
        constraints: Constraints | None = None,
        scale: Mapping[str, float] | None = None,
    ) -> list[Choice]:
        """One choice per node, named by its first matrix."""
        allowed = (constraints or Constraints()).allow()
        tensors, factors = self.workspace.model.tensors, scale or {}
        choices: list[Choice] = []
        for members in self.nodes:
            if any(m not in measured.costs for m in members):
                continue
            options: list[Option] = []
            for encoding in measured.costs[members[0]]:
                known = all(encoding in measured.costs[m] for m in members)
                if not known or not all(allowed(m, encoding) for m in members):
                    continue
                if expert_nodes.is_expert(members[0]) and not expert_nodes.has_kernel(encoding):
                    continue
                cost = sum(measured.costs[m][encoding] * factors.get(m, 1.0) for m in members)
                size = sum(
                    matrix_bytes(num_rows(tensors[m]), columns(tensors[m]), encoding)
                    for m in members
                )
                options.append(Option(encoding=encoding, nbytes=size, cost=cost))
            if not options:
                raise UsageError(
                    f"no encoding is left for {', '.join(members)}", todo="exclude fewer encodings"
                )
            choices.append(Choice(name=members[0], options=options))
        speed = self.workspace.speed
        return speed.timed(choices, {m[0]: m for m in self.nodes}) if speed else choices

    def plan(self, choices: Sequence[Choice], encodings: Mapping[str, str]) -> Plan:
        """The plan of one rule per node, with a rule for every matrix of it."""
        plan = super().plan(choices, encodings)
        members = {m[0]: m for m in self.nodes}
        rules = [
            rule.model_copy(update={"pattern": f"^{re.escape(name)}$"})
            for choice, rule in zip(choices, plan.rules, strict=True)
            for name in members[choice.name]
        ]
        return plan.model_copy(update={"rules": rules})
