"""Optimization of folders for onnxruntime: one encoding per node, as fast as the builder's mix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from kanna._util.progress import Silent
from kanna.conversion import (
    ConversionRequest,
    ConvertResult,
    Guidance,
    WriteOptions,
    onnx_provider,
    read_guidance,
)
from kanna.conversion.nbits import NBitsConversion, NBitsSizes
from kanna.encodings import Encoding
from kanna.encodings.grouped.nbits import parse
from kanna.errors import PlanError
from kanna.escaping import argument
from kanna.formats.stream import WriteResult
from kanna.hardware import providers
from kanna.model import F32, Model, num_weights
from kanna.optimization.accuracy_levels import AccuracyResult
from kanna.optimization.adapters.base import Adapter
from kanna.optimization.adapters.onnx_accuracy import LevelTrials, kinds_of
from kanna.optimization.adapters.onnx_graph import GraphAdapter
from kanna.optimization.adapters.onnx_probe import ONNXProber
from kanna.optimization.adapters.onnx_scorer import GraphScorer, held_windows
from kanna.optimization.adapters.onnx_static import StaticONNXAdapter
from kanna.optimization.adapters.onnx_time import share_within_time
from kanna.optimization.constraints import Constraints
from kanna.optimization.kl_scorer import HeldOutWindows
from kanna.optimization.measure import InputRounding, Measured
from kanna.optimization.request import OptimizeRequest
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


class ONNXAdapter(GraphAdapter):
    """ONNX folders of MatMulNBits nodes; of fixed shapes, another adapter's."""

    supports_probing = True
    supports_levels = True
    supports_tuning = True
    tuning_bytes = 128

    @classmethod
    def for_request(cls, request: OptimizeRequest) -> type[Adapter]:
        """That of fixed shapes, where they are asked for."""
        return cls if request.static is None else StaticONNXAdapter

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
                f"{profile.name} multiplies no weights in groups, which graphs of any length have "
                f"({profile.table})",
                expected="--static CHUNKxCONTEXT, among codes with a scale per channel",
                todo="add --static 64x1024: chunks of 64 tokens of a prompt, 1024 tokens in all"
                if onnx_provider.code_bits(profile)
                else f"kanna convert {argument(request.source)} -o {argument(request.out)} "
                f"--preset onnx:fp32 --provider {profile.name}",
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
    def _weights(self) -> dict[str, int]:
        """How many weights each node has, by its first matrix."""
        tensors = self.workspace.model.tensors
        return {m[0]: sum(num_weights(tensors[n]) for n in m) for m in self.nodes}

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
