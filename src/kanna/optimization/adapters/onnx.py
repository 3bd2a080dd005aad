"""Optimization of folders for onnxruntime: one encoding per node, as fast as the builder's mix."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from kanna._util import own_files
from kanna._util.atomic import write_text
from kanna._util.progress import Silent
from kanna.conversion import (
    ConversionRequest,
    ConvertResult,
    Guidance,
    WriteOptions,
    expert_nodes,
    read_guidance,
)
from kanna.conversion.nbits import NBitsConversion, NBitsSizes
from kanna.encodings import Encoding
from kanna.encodings.grouped.nbits import parse
from kanna.errors import PlanError, UsageError
from kanna.escaping import argument
from kanna.formats.onnx import build
from kanna.formats.stream import WriteResult
from kanna.hardware import providers
from kanna.model import F32, Model, columns, num_rows, num_weights
from kanna.optimization.accuracy_levels import AccuracyResult
from kanna.optimization.adapters.base import Adapter
from kanna.optimization.adapters.onnx_accuracy import LevelTrials, kinds_of
from kanna.optimization.adapters.onnx_probe import ONNXProber
from kanna.optimization.adapters.onnx_scorer import GraphScorer, held_windows
from kanna.optimization.adapters.onnx_time import share_within_time
from kanna.optimization.constraints import Constraints
from kanna.optimization.kl_scorer import HeldOutWindows
from kanna.optimization.measure import InputRounding, Measured
from kanna.optimization.request import OptimizeRequest
from kanna.optimization.search import NAME
from kanna.optimization.tuning.folder import FolderSubject
from kanna.plan import Plan, load
from kanna.plan import onnx as presets
from kanna.plan.allocate import Choice, Option

_CPU = "cpu"
"""The execution provider that computes a folder for none."""


def rounded_inputs(encoding: Encoding, x: F32) -> F32 | None:
    """Inputs f32 [tokens, columns] as a node of accuracy_level 4 rounds them.

    Whole numbers up to 127 per group, times a scale; None where the encoding is a float.
    """
    kind = parse(encoding.name)
    if kind is None:
        return None
    groups = x.reshape(len(x), -1, kind.group)
    largest = np.maximum(np.abs(groups).max(axis=2, keepdims=True), np.float32(1e-30))
    scale = largest / np.float32(127)
    return (np.rint(groups / scale) * scale).reshape(x.shape)


def matrix_bytes(rows: int, cols: int, encoding: str) -> int:
    """Bytes of a matrix in the external data, with what aligns its planes."""
    kind = parse(encoding)
    return rows * kind.row_bytes(cols) if kind else 4 * rows * cols


@dataclass(frozen=True, slots=True, kw_only=True)
class FromGraph:
    """A conversion that starts from a float graph, and counts every file of the folder."""

    work: NBitsConversion
    graph: Path

    def describe(self) -> ConvertResult:
        """What would be written, to the byte."""
        return replace(self.work.describe(), file_bytes=self.work.folder_bytes(self.graph))

    def check(self, result: ConvertResult, *, overwrite: bool) -> None:
        """Raise OutputError when there is no room, or something is there."""
        self.work.check(result, overwrite=overwrite)

    def write(self, options: WriteOptions) -> WriteResult:
        """Write the folder."""
        return self.work.write_from(self.graph, options)

    def graph_alone(self) -> bytes:
        """The graph without its data, which lies as that of any plan of the same encodings."""
        return self.work.sizes.prepare(self.work.plan, self.work.nodes, self.graph).graph

    def stored(self) -> Model:
        """The model that a written folder holds."""
        return self.work.held(self.graph)


class ONNXAdapter(Adapter):
    """ONNX folders of MatMulNBits nodes, made from the float graph of the source."""

    format = "onnx"
    supports_probing = True
    supports_levels = True
    supports_tuning = True
    sizes_from_headers = False
    takes_provider = True
    tuning_bytes = 128

    @property
    def full(self) -> str:
        """Graphs compute in float32."""
        return "f32"

    def candidates(self) -> Sequence[str]:
        """What onnxruntime multiplies by at full speed."""
        return presets.CANDIDATES

    def constraints(self, request: OptimizeRequest) -> Constraints:
        """What the user demands, and what the execution provider multiplies."""
        plain = super().constraints(request)
        if request.provider is None:
            return plain
        profile = providers.get(request.provider)
        if profile.static_shapes.value or not profile.takes_groups:
            raise PlanError(
                f"{profile.name} computes codes in standard operators, in graphs of fixed shapes: "
                f"there is nothing to choose but the preset ({profile.table})",
                expected="a provider that multiplies weights in groups",
                todo=f"kanna convert {argument(request.source)} -o {argument(request.out)} "
                f"--preset onnx:w8a16-full --static 64x1024 --provider {profile.name} --verify",
            )

        def admits(_tensor: str, encoding: str) -> bool:
            kind = parse(encoding)
            return kind is None or profile.multiplies(kind.bits, kind.group)

        return replace(plain, admits=admits, target=profile.name)

    def request(self, plan: Path | Plan | None, preset: str | None) -> ConversionRequest:
        """What a conversion is asked for; that of the plan on the disk, for the provider.

        Probes hold what it may not multiply, and so may a plain preset.
        """
        asked, provider = super().request(plan, preset), self.workspace.provider
        if provider is None or not (isinstance(plan, Path) or self._multiplies(preset, provider)):
            return asked
        return replace(asked, provider=provider)

    def _multiplies(self, preset: str | None, provider: str) -> bool:
        """Whether a provider multiplies all that a preset has."""
        if preset is None:
            return False
        profile = providers.get(provider)
        entries = self.sizes.nodes(self.sizes.preset(preset)).entries.values()
        kinds = [parse(entry.encoding.name) for entry in entries]
        return all(kind is None or profile.multiplies(kind.bits, kind.group) for kind in kinds)

    @property
    def rounding(self) -> InputRounding:
        """Nodes of accuracy_level 4 round their inputs."""
        return rounded_inputs

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
        workspace = self.workspace
        guidance = read_guidance(
            workspace.source,
            workspace.model,
            statistics=workspace.statistics,
            device=workspace.context.device,
        )
        return self.sizes_with(guidance)

    def sizes_with(self, guidance: Guidance) -> NBitsSizes:
        """Every file of a folder, from the float graph."""
        workspace = self.workspace
        sizes = NBitsSizes(workspace.source, workspace.model, guidance, graph=self.graph)
        sizes.provider = workspace.provider
        return sizes

    @cached_property
    def nodes(self) -> list[list[str]]:
        """The matrices of each node, by GGUF name: q, k and v are one, and a layer's experts."""
        nodes: list[list[str]] = []
        for ours in self.sizes.gguf_names.values():
            members = self.sizes.joined(ours)
            if members[0] == ours:
                nodes.append(members)
        return nodes

    @cached_property
    def _weights(self) -> dict[str, int]:
        """How many weights each node has, by its first matrix."""
        tensors = self.workspace.model.tensors
        return {m[0]: sum(num_weights(tensors[n]) for n in m) for m in self.nodes}

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

    def share(self, choices: Sequence[Choice], nbytes: int) -> dict[str, Option]:
        """The least cost within so many bytes, and the time of the builder's mix of that size.

        Where something is asked of the speed, that counts instead.
        """
        if self.workspace.speed is not None:
            return super().share(choices, nbytes)
        return share_within_time(choices, nbytes, self._weights, self.sizes.tied)

    def conversion(
        self, out: Path, *, plan: Path | Plan | None = None, preset: str | None = None
    ) -> FromGraph:
        """The conversion of the float graph."""
        workspace = self.workspace
        work = NBitsConversion(workspace.source, workspace.model, out, self.request(plan, preset))
        return FromGraph(work=work, graph=self.graph)

    def prober(self, measured: Measured) -> ONNXProber:
        """Probes in onnxruntime."""
        workspace = self.workspace

        def write(plan: Plan, folder: Path) -> None:
            self.conversion(folder, plan=plan).write(workspace.context.running(Silent()))

        return ONNXProber(workspace=workspace, graph=self.graph, costs=measured.costs, write=write)

    def settle_levels(self, plan: Path, artefact: Path) -> AccuracyResult | None:
        """The level of every kind of node, on the CPU; None for a provider that has no levels."""
        workspace, planned = self.workspace, load(plan)
        kinds = kinds_of(planned, self.nodes, self.sizes.tied)
        windows = held_windows(workspace, self.graph)
        if not (kinds and windows and self._heeds_levels(workspace.provider)):
            return None
        threads = workspace.context.threads
        scorer = GraphScorer(graph=self.graph, windows=windows, threads=threads)
        trials = LevelTrials(
            plan=planned,
            artefact=artefact,
            kinds=kinds,
            graph=lambda plan: self.conversion(artefact, plan=plan).graph_alone(),
            score=scorer.score,
            progress=workspace.context.progress,
        )
        return trials.settle(plan, free=workspace.speed is None)

    def _heeds_levels(self, provider: str | None) -> bool:
        levels = providers.get(provider or _CPU).accuracy_levels
        return levels is not None and {presets.EXACT, presets.INT8} <= set(levels.value)

    def tuning_subject(
        self, plan: Path, artefact: Path, out: Path, windows: HeldOutWindows
    ) -> FolderSubject:
        """The folder of `plan`. Its norms are part of the graph, and stay."""

        def write(tuned: Path) -> None:
            self.conversion(out, plan=tuned).write(self.workspace.context.running())

        return FolderSubject(
            artefact=artefact,
            out=out,
            norms=False,
            reader=lambda path: self.conversion(path, plan=plan).stored(),
            writer=write,
        )


ADAPTER = ONNXAdapter
