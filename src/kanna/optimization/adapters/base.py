"""The contract of a format with the optimization, and what most formats have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from kanna import conversion, encodings, formats
from kanna.comparison.context import ComparisonContext
from kanna.comparison.description import versions
from kanna.comparison.planning import base_name, planned_row
from kanna.comparison.result_cache import ResultCache
from kanna.comparison.rows import Row
from kanna.conversion import Conversion, ConversionRequest, Guidance, Sizes
from kanna.encodings import grouped
from kanna.errors import KannaError, UsageError
from kanna.evaluation import Extent
from kanna.families import hf_names
from kanna.formats.base import Format
from kanna.optimization.accuracy_levels import AccuracyResult
from kanna.optimization.constraints import Constraints
from kanna.optimization.context import Workspace
from kanna.optimization.kl_scorer import HeldOutWindows, KLScorer, Window
from kanna.optimization.measure import InputRounding, Measured
from kanna.optimization.memory_budget import MemoryBudget
from kanna.optimization.probe import Prober
from kanna.optimization.request import OptimizeRequest
from kanna.optimization.search import NAME, SizeRange, plan_of
from kanna.optimization.speed import SpeedGoal
from kanna.optimization.tuning.subject import TuningSubject
from kanna.plan import Plan
from kanna.plan.allocate import Choice, Option, allocate


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtefactSpec:
    """An artefact that is to be made, by a plan file or as a preset.

    Attributes:
        name: In the report.
        path: The file or folder.
    """

    name: str
    path: Path
    plan: Path | None = None
    preset: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PresetOffer:
    """What a plain preset makes: bytes as a budget counts them, the encoding of every tensor."""

    file_bytes: int
    encodings: Mapping[str, str]


class Adapter:
    """A format, for one source: what a plan or a preset makes of it, to the byte.

    A subclass names its `format`; everything else has a default, from the record of the format and
    its conversion. What a format does not support is left as it is here.

    Attributes:
        format: The name of the format.
        compares: Whether every artefact is gated and timed as in a comparison. Otherwise the
            closest one is gated, and `bench` measures speed.
        sizes_from_headers: Whether sizes are known before anything is made of the source.
        supports_memory: Whether it has a `memory_budget`.
        supports_probing: Whether it has a `prober`.
        supports_levels: Whether nodes say if they round their inputs, see `settle_levels`.
        supports_local_search: Whether it has a `scorer` and `rewrite`; with them there are
            divergences by kind of text, too.
        takes_provider: Whether an execution provider of onnxruntime computes it.
        takes_static: Whether it is made for fixed shapes.
        supports_speed: Whether tokens per second can be asked for.
        supports_tuning: Whether it has a `tuning_subject`.
        supports_spreading: Whether values of layers are chosen in an executor; all are measured.
        supports_apart: Whether what adapters keep beside an artefact is measured in its runtime.
        tuning_bytes: Bytes of metadata that a tuned artefact has beyond those of its plan.
        seconds: That the matrices of a plan may take of a token; None: as many as they like.
    """

    format: ClassVar[str]
    compares: ClassVar[bool] = False
    sizes_from_headers: ClassVar[bool] = True
    supports_memory: ClassVar[bool] = False
    supports_probing: ClassVar[bool] = False
    supports_levels: ClassVar[bool] = False
    supports_local_search: ClassVar[bool] = False
    takes_provider: ClassVar[bool] = False
    takes_static: ClassVar[bool] = False
    supports_speed: ClassVar[bool] = True
    supports_tuning: ClassVar[bool] = False
    supports_spreading: ClassVar[bool] = False
    supports_apart: ClassVar[bool] = False
    tuning_bytes: ClassVar[int] = 0

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.seconds = _allowed(workspace.speed)

    @classmethod
    def for_request(cls, request: OptimizeRequest) -> type[Adapter]:
        """What makes what is asked for: this class, or another one of the format."""
        return cls

    @property
    def record(self) -> Format:
        """What kanna knows of the format."""
        return formats.get(self.format)

    def follow(self, speed: SpeedGoal | None) -> None:
        """Choose plans by what is asked of the speed; None: by bytes alone."""
        self.workspace = replace(self.workspace, speed=speed)
        self.seconds = _allowed(speed)

    def check_speed(self, choices: Sequence[Choice], nbytes: int) -> None:
        """Raise PlanError with the fastest plan where none of so many bytes is as fast as asked."""
        if self.workspace.speed is not None:
            self.workspace.speed.check(choices, nbytes)

    # Names

    def file(self, name: str) -> Path:
        """A file of the output folder: `plan.json` is plan-mlx.json of MLX."""
        stem, dot, ending = name.partition(".")
        suffix = "" if self.format == formats.DEFAULT else f"-{self.format}"
        return self.workspace.folder / f"{stem}{suffix}{dot}{ending}"

    @property
    def _ending(self) -> str:
        return self.record.suffix or f"-{self.format}"

    def artefact(self, name: str) -> Path:
        """Where an artefact of this name lies."""
        base = base_name(self.workspace.source)
        return self.workspace.folder / f"{base}-{name}{self._ending}"

    @property
    def pattern(self) -> str:
        """A glob that matches every artefact of this format in the output folder."""
        return f"*{self._ending}"

    def label(self, preset: str) -> str:
        """How a preset is called where formats meet."""
        return formats.qualified(self.format, preset)

    @property
    def names(self) -> Mapping[str, str]:
        """Names of tensors in artefacts → names in GGUF, where they differ."""
        return {theirs: ours for ours, theirs in hf_names(self.workspace.model).items()}

    # What a plan may hold

    @property
    def full(self) -> str:
        """The encoding of what is not quantized."""
        return "f16"

    def candidates(self) -> Sequence[str] | None:
        """Encodings to choose from; None: those that `measure` has for every matrix."""
        names = (*encodings.names(), *grouped.names())
        return [name for name in names if self.record.carries(encodings.get(name))]

    def constraints(self, request: OptimizeRequest) -> Constraints:
        """What the user demands of some tensors, in the words of this format."""
        return Constraints(
            keep=request.keep,
            exclude=request.exclude,
            rules=request.rules,
            full=self.full,
            vocabulary=self.candidates() or (),
        )

    def notes(self) -> list[str]:
        """What the user should know before anything is written."""
        return []

    def check_available(self) -> None:
        """Raise MissingError when something that writes this format is not installed."""

    def prepare(self) -> None:
        """Make what sizes depend on, before the first of them is asked for."""

    def choices(
        self,
        measured: Measured,
        constraints: Constraints | None = None,
        scale: Mapping[str, float] | None = None,
    ) -> list[Choice]:
        """What the search chooses from; without constraints, everything that was measured."""
        allowed = constraints.allow() if constraints else None
        choices = measured.choices(self.workspace.model, allowed, scale)
        return self.workspace.speed.timed(choices) if self.workspace.speed else choices

    def plan(self, choices: Sequence[Choice], encodings: Mapping[str, str]) -> Plan:
        """The plan that gives each choice its encoding."""
        return plan_of(choices, encodings, self.full)

    def share(self, choices: Sequence[Choice], nbytes: int) -> dict[str, Option]:
        """The options of least cost within so many bytes, by choice."""
        if self.workspace.speed is None:
            return allocate(choices, nbytes)
        return self.workspace.speed.share(choices, nbytes, self.seconds)

    @property
    def rounding(self) -> InputRounding | None:
        """What the runtime makes of inputs; None where it takes them as they are."""
        return None

    # Sizes

    def presets(self) -> Sequence[str]:
        """Names of the presets whose size can be a budget."""
        return [name for name, preset in self.record.presets.items() if not preset.derived]

    def baselines(self) -> Sequence[str]:
        """Names of the presets that a result is compared with."""
        return self.presets()

    def preset_named(self, like: str) -> str:
        """The preset that `--like` names.

        Raises:
            UsageError: There is none of this name.
        """
        name = self.record.canonical(like.removeprefix(f"{self.format}:"))
        if name not in self.presets():
            raise UsageError(
                f"--like {like}", expected="alone, one of " + ", ".join(self.presets())
            )
        return name

    @cached_property
    def sizes(self) -> Sizes:
        """What sizes plans, to the byte; computed once."""
        workspace = self.workspace
        guidance = conversion.read_guidance(
            workspace.source,
            workspace.model,
            statistics=workspace.statistics,
            device=workspace.context.device,
        )
        return self.sizes_with(guidance)

    @cached_property
    def preset_sizes(self) -> Sizes:
        """What sizes presets."""
        return self.sizes

    def sizes_with(self, guidance: Guidance) -> Sizes:
        """What sizes artefacts that are made by this guidance, as a budget counts them."""
        return conversion.sizes(self.format, self.workspace.source, self.workspace.model, guidance)

    def size(self, plan: Plan) -> int:
        """Bytes of the artefact of a plan; the name of the file it was saved in may count."""
        return self.sizes.of(plan)

    def preset_size(self, preset: str) -> int:
        """The same of a preset."""
        return self.preset_sizes.of(self.preset_sizes.preset(preset))

    def offers(self) -> dict[str, PresetOffer]:
        """Every preset that the model can be converted by, with its bytes and encodings."""
        offers: dict[str, PresetOffer] = {}
        sizes, names = self.preset_sizes, self.names
        for preset in self.baselines():
            try:
                sized = sizes.sized(sizes.preset(preset))
            except KannaError:
                continue
            encodings_of = {names.get(t["name"], t["name"]): t["encoding"] for t in sized.tensors}
            offers[preset] = PresetOffer(file_bytes=sized.file_bytes, encodings=encodings_of)
        return offers

    def request(self, plan: Path | Plan | None, preset: str | None) -> ConversionRequest:
        """What a conversion is asked for, with the statistics if there are any."""
        workspace = self.workspace
        return ConversionRequest(
            plan=plan,
            preset=preset,
            statistics=workspace.statistics,
            device=workspace.context.device if workspace.statistics else None,
        )

    def conversion(
        self, out: Path, *, plan: Path | Plan | None = None, preset: str | None = None
    ) -> Conversion:
        """The conversion by a plan or a preset, planned and not written."""
        begin = conversion.get(self.format).begin
        return begin(self.workspace.source, out, self.request(plan, preset))

    # Artefacts

    @property
    def runtime_version(self) -> str:
        """The version of the runtime that artefacts are scored in."""
        return versions((self.format,))[self.format]

    @property
    def window(self) -> int:
        """Tokens of a window that artefacts are evaluated on."""
        return Extent().context

    def comparison_context(self) -> ComparisonContext:
        """What artefacts are proved and scored with, as in a comparison."""
        workspace, context = self.workspace, self.workspace.context
        hashes = workspace.source.hashes(context.progress)
        return ComparisonContext(
            source=workspace.source,
            model=workspace.model,
            cache=ResultCache(workspace.folder, hashes, self.runtime_version),
            threads=context.threads,
            progress=context.progress,
        )

    def describe(self, spec: ArtefactSpec) -> Row:
        """The row of the report for an artefact, written or not."""
        work = self.conversion(spec.path, plan=spec.plan, preset=spec.preset)
        row = planned_row(
            work.describe(),
            path=spec.path,
            name=spec.name,
            role="candidate",
            format=self.format,
        )
        row.command = ""
        return row

    def write(self, spec: ArtefactSpec) -> Row:
        """Write an artefact; returns its row of the report."""
        self.write_folder(spec)
        return self.describe(spec)

    def write_folder(self, spec: ArtefactSpec) -> None:
        """Write the file or folder of an artefact."""
        work = self.conversion(spec.path, plan=spec.plan, preset=spec.preset)
        work.write(self.workspace.context.running())

    def specs(self, plan: Path) -> Sequence[ArtefactSpec]:
        """The artefact of a plan; behind it others of its encodings, no larger, to be proved."""
        return [ArtefactSpec(name=NAME, path=self.artefact(NAME), plan=plan)]

    def placed(self, path: Path) -> dict[str, Any] | None:
        """What the execution provider takes of an artefact, as JSON has it; None without one.

        Raises:
            GateError: It multiplies by something that the provider does not take.
        """
        return None

    def bits_per_weight(self, row: Row) -> float:
        """Bits per weight of a row."""
        return row.bits_per_weight or 0.0

    # What not every format supports

    def prober(self, measured: Measured) -> Prober:
        """Measures in the runtime what kinds of tensors cost."""
        raise NotImplementedError

    def settle_levels(self, plan: Path, artefact: Path) -> AccuracyResult | None:
        """Leave inputs in floats, in the plan and what it made, where rounding costs too much.

        None where nothing that was written rounds its inputs.
        """
        raise NotImplementedError

    def memory_budget(self, request: OptimizeRequest, feasible: SizeRange) -> MemoryBudget:
        """What `--memory` leaves for weights."""
        raise NotImplementedError

    def scorer(self, windows: Sequence[Window]) -> KLScorer:
        """Scores artefacts on windows of text, in their runtime."""
        raise NotImplementedError

    def rewrite(self, plan: Path, out: Path, before: Path) -> None:
        """Write `out` by a plan, taking from the artefact `before` what has not changed."""
        raise NotImplementedError

    def tuning_subject(
        self, plan: Path, artefact: Path, out: Path, windows: HeldOutWindows
    ) -> TuningSubject:
        """What tunes the `artefact` of `plan` into `out`."""
        raise NotImplementedError


def _allowed(speed: SpeedGoal | None) -> float | None:
    """Seconds of a token that are allowed; None: any."""
    return speed.allowed if speed is not None else None
