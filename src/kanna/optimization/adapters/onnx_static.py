"""Optimization of ONNX folders of fixed shapes, as NPUs take them: 4 or 8 bits by matrix."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from kanna._util.atomic import write_text
from kanna.conversion import ConversionRequest, ConvertResult, Guidance, WriteOptions, onnx_provider
from kanna.conversion.nbits_sizes import EMBEDDING
from kanna.conversion.onnx_channel import ChannelConversion, ChannelSizes
from kanna.encodings.grouped import channel
from kanna.errors import GateError, PlanError
from kanna.escaping import argument
from kanna.formats.onnx import build, files, static_shapes
from kanna.formats.onnx.code_room import CodeRoom
from kanna.formats.onnx.static_shapes import StaticShape
from kanna.formats.stream import WriteResult
from kanna.hardware.providers import ProviderProfile, placement
from kanna.optimization.adapters.base import ArtefactSpec
from kanna.optimization.adapters.onnx_graph import GraphAdapter
from kanna.optimization.constraints import Constraints
from kanna.optimization.request import OptimizeRequest
from kanna.optimization.search import NAME
from kanna.plan import Plan, load
from kanna.plan.allocate import Choice
from kanna.plan.onnx_derived import DERIVED

_PLACES = ("all", "products")
"""Where codes of activations are, see `Plan.activation_codes`; the first one's is the plan."""
_WIDE = channel.name_of(8)


@dataclass(frozen=True, slots=True, kw_only=True)
class SizedConversion:
    """A conversion that counts every file of the folder."""

    work: ChannelConversion
    nbytes: int

    def describe(self) -> ConvertResult:
        """What would be written, to the byte."""
        return replace(self.work.describe(), file_bytes=self.nbytes)

    def check(self, result: ConvertResult, *, overwrite: bool) -> None:
        """Raise OutputError when there is no room, or something is there."""
        self.work.check(result, overwrite=overwrite)

    def write(self, options: WriteOptions) -> WriteResult:
        """Write the folder."""
        return self.work.write(options)


class StaticONNXAdapter(GraphAdapter):
    """ONNX folders of fixed shapes whose matrices have codes with a scale per channel.

    Codes of activations are between all nodes; the same plan with floats between products is
    written and measured beside it, since an NPU may take both.
    """

    takes_static = True
    supports_speed = False

    @property
    def full(self) -> str:
        """The widest codes."""
        return _WIDE

    def candidates(self) -> Sequence[str]:
        """Codes of 4 and 8 bits."""
        return [channel.name_of(bits) for bits in channel.BITS]

    @property
    def _static(self) -> str:
        static = self.workspace.static
        assert static is not None, "no shapes were asked for"
        return static

    @property
    def profile(self) -> ProviderProfile | None:
        """The execution provider; None: any."""
        return onnx_provider.wanted(self.workspace.provider, self._static)

    def constraints(self, request: OptimizeRequest) -> Constraints:
        """What the user demands, and what the execution provider multiplies.

        Raises:
            PlanError: That is no code with a scale per channel.
            UsageError: The shapes are none of this model.
        """
        workspace = self.workspace
        sizes = ChannelSizes(workspace.source, workspace.model, Guidance())
        static_shapes.wanted(self._static, sizes.config)
        profile = self.profile
        widths: Sequence[int] = channel.BITS
        if profile is not None:
            self._check_activations(profile, request)
            widths = onnx_provider.code_bits(profile)
            if not widths:
                raise PlanError(
                    f"{profile.name} multiplies no codes with a scale per channel "
                    f"({profile.table})",
                    expected="a provider that takes QDQ graphs",
                    todo="`kanna components providers` shows what each of them takes",
                )

        def admits(tensor: str, encoding: str) -> bool:
            bits = channel.bits_of(encoding)
            # Norms are floats; rows of an embedding are looked up in codes of 8 bits.
            return bits is None or (bits in widths and (bits == 8 or tensor != EMBEDDING))

        return replace(
            super().constraints(request),
            admits=admits,
            target=profile.name if profile else "a graph of codes with a scale per channel",
        )

    def _check_activations(self, profile: ProviderProfile, request: OptimizeRequest) -> None:
        """PlanError where activations have no codes of 16 bits, with what there is instead."""
        wide, narrow = onnx_provider.CHANNELS, onnx_provider.BYTES
        if not onnx_provider.reads_activations(profile, narrow):
            onnx_provider.check_derived(profile, wide)
        if onnx_provider.reads_activations(profile, wide):
            return
        raise PlanError(
            f"{profile.name} reads activations of 8 bits and not of 16 ({profile.table}); beside "
            "those every matrix has 8 bits, and there is nothing to share out",
            expected="a provider that reads codes of 16 bits",
            todo=f"kanna convert {argument(request.source)} -o {argument(request.out)} --preset "
            f"onnx:{narrow} --static {self._static} --provider {profile.name}",
        )

    def notes(self) -> list[str]:
        """What ranges and values come from."""
        return [
            "ranges of activations, and values, are chosen on the built-in calibration text; "
            "--calibration decides which matrices get more bits"
        ]

    # Sizes

    def prepare(self) -> None:
        """Build the float graph, and a folder for each place of codes, of which only room counts.

        They are there already where an earlier run made them of the same source.
        """
        super().prepare()
        context = self.workspace.context
        known = [self.workspace.source.hashes(), self._static, self.workspace.provider]
        for where in _PLACES:
            folder, key = self._room(where), json.dumps([*known, where], sort_keys=True)
            mark = folder.with_suffix(".json")
            if folder.is_dir() and mark.is_file() and mark.read_text(encoding="utf-8") == key:
                continue
            work = self._conversion(folder, Plan(encoding=_WIDE, activation_codes=where))
            work.blank = True
            work.write(context.running())
            write_text(mark, key)
        context.clock.lap("room")

    def _room(self, where: str) -> Path:
        return self.workspace.folder / f"room-{where}"

    @cached_property
    def sizes(self) -> ChannelSizes:
        """What sizes whole folders, and knows their nodes."""
        return self.sizes_with(Guidance())

    def sizes_with(self, guidance: Guidance) -> ChannelSizes:
        """Every file of a folder, once there is room to look at."""
        workspace, rooms = self.workspace, {w: self._room(w) for w in _PLACES}
        return ChannelSizes(
            workspace.source,
            workspace.model,
            guidance,
            graph=self.graph / build.GRAPH,
            room={w: CodeRoom(folder) for w, folder in rooms.items() if folder.is_dir()},
        )

    def presets(self) -> Sequence[str]:
        """Those whose activations have 16 bits, as far as the provider takes their weights."""
        able = onnx_provider.code_bits(self.profile) if self.profile else channel.BITS
        return [name for name, made in DERIVED.items() if made.wide and made.bits in able]

    # Plans

    def plan(self, choices: Sequence[Choice], encodings: Mapping[str, str]) -> Plan:
        """One rule per matrix, with codes between all nodes."""
        plan = super().plan(choices, encodings)
        return plan.model_copy(update={"activation_codes": _PLACES[0]})

    def specs(self, plan: Path) -> Sequence[ArtefactSpec]:
        """The artefact of the plan, and that of the same matrices with floats between products."""
        made = [*super().specs(plan)]
        for where in _PLACES[1:]:
            path, name = self.file(f"plan-{where}.json"), f"{NAME}-{where}"
            load(plan).model_copy(update={"activation_codes": where}).save(path)
            made.append(ArtefactSpec(name=name, path=self.artefact(name), plan=path))
        return made

    def _conversion(self, out: Path, plan: Plan) -> ChannelConversion:
        workspace = self.workspace
        request = ConversionRequest(static=self._static, provider=workspace.provider)
        work = ChannelConversion(workspace.source, workspace.model, out, request, plan)
        work.graph = self.graph
        return work

    def conversion(
        self, out: Path, *, plan: Path | Plan | None = None, preset: str | None = None
    ) -> SizedConversion:
        """The conversion of the float graph."""
        asked = load(plan) if isinstance(plan, Path) else plan
        if asked is None:
            assert preset is not None, "neither a plan nor a preset"
            asked = self.sizes.preset(preset)
        return SizedConversion(work=self._conversion(out, asked), nbytes=self.sizes.of(asked))

    # What was written

    @property
    def window(self) -> int:
        """No more than the cache has room for."""
        return min(super().window, StaticShape.parse(self._static).context)

    def placed(self, path: Path) -> dict[str, Any] | None:
        """Both graphs as they were written, held to the table of the provider."""
        profile = self.profile
        if profile is None:
            return None
        folder = files.read_folder(path)
        graphs = {p.name: files.load(p) for p in (folder.prefill, folder.graph) if p is not None}
        tables = {name: placement.place(graph, profile) for name, graph in graphs.items()}
        outside = [node for table in tables.values() for node in table.products]
        if outside:
            raise GateError(
                f"{path} holds {len(outside)} products that {profile.name} does not take, such as "
                f"{outside[0].sentence()}",
                expected=f"products that are in {profile.table}",
                todo="report this: `kanna bug-report` makes the report",
            )
        return {
            "name": profile.name,
            "table": profile.table,
            "outside": len(outside),
            "graphs": {name: table.sentence() for name, table in tables.items()},
            "weights": dict(Counter(_kinds(graphs[folder.graph.name]))),
        }


def _kinds(model: Any) -> list[str]:
    """Encodings of the matrices of a graph, by the types of the codes that it multiplies."""
    from onnx import TensorProto

    bits = {TensorProto.INT4: 4, TensorProto.INT8: 8}
    held = {t.name: t.data_type for t in model.graph.initializer if len(t.dims) == 2}
    return [
        channel.name_of(bits[held[node.input[0]]])
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and held.get(node.input[0]) in bits
    ]
