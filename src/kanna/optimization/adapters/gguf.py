"""Optimization of GGUF files for llama.cpp."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from kanna import encodings, families
from kanna._util import own_files
from kanna._util.digest import sha256
from kanna._util.progress import Progress, Silent
from kanna.calibration.statistics import HELD_TEXT, IMATRIX
from kanna.comparison.artefacts import is_same, make
from kanna.comparison.planning import planned_row
from kanna.comparison.rows import Row
from kanna.conversion import ConversionRequest, Sizes, read_guidance
from kanna.conversion.gguf import GGUFConversion
from kanna.encodings import grid_detection
from kanna.escaping import shell_path
from kanna.evaluation import reference_gguf
from kanna.evaluation.windows import cut, read_text
from kanna.hardware.mask import mask
from kanna.model import Model
from kanna.optimization.adapters.base import Adapter, ArtefactSpec
from kanna.optimization.constraints import Constraints
from kanna.optimization.context import Workspace
from kanna.optimization.kl_scorer import F64, HeldOutWindows, KLScorer, Window
from kanna.optimization.measure import Measured
from kanna.optimization.memory_budget import MemoryBudget
from kanna.optimization.probe import kind_of
from kanna.optimization.request import OptimizeRequest
from kanna.optimization.rewrite import rewrite
from kanna.optimization.search import NAME, SizeRange
from kanna.optimization.spread.encoding import write_layers
from kanna.optimization.text_extent import probe_windows
from kanna.optimization.tuning.training import ScaleTraining
from kanna.plan import Plan, RuleModel, roles
from kanna.runtimes.llamacpp import CACHES, RUNTIME
from kanna.sources import open_source

BITS = 4.6
"""Probes use the encoding nearest to this many bits."""
CONTEXT = 512


class GGUFAdapter(Adapter):
    """GGUF files: all that optimization knows, a local search and a memory budget included."""

    format = "gguf"
    compares = True
    supports_memory = True
    supports_probing = True
    supports_local_search = True
    supports_tuning = True
    supports_spreading = True
    supports_apart = True
    tuning_bytes = 128

    def candidates(self) -> None:
        """Those of `measure`, and the encoding whose grid a matrix lies on already."""
        return None

    def constraints(self, request: OptimizeRequest) -> Constraints:
        """As the user has them."""
        return Constraints(
            keep=request.keep,
            exclude=request.exclude,
            rules=request.rules,
            admits=mask(request.chosen_target, self.workspace.model.tensors)
            if request.chosen_target
            else None,
            target=request.chosen_target.name if request.chosen_target else "",
        )

    def notes(self) -> list[str]:
        """Which grids the weights lie on already."""
        return grid_detection.describe(grid_detection.detect_all(self.workspace.model.tensors))

    @cached_property
    def preset_sizes(self) -> Sizes:
        """What sizes presets, with the statistics as their importance matrix."""
        workspace, statistics = self.workspace, self.workspace.statistics
        imatrix = statistics / IMATRIX if statistics else None
        return self.sizes_with(read_guidance(workspace.source, workspace.model, imatrix=imatrix))

    def conversion(
        self, out: Path, *, plan: Path | Plan | None = None, preset: str | None = None
    ) -> GGUFConversion:
        """The conversion; of a preset with the statistics as its importance matrix."""
        workspace = self.workspace
        return GGUFConversion(workspace.source, workspace.model, out, self.request(plan, preset))

    def request(self, plan: Path | Plan | None, preset: str | None) -> ConversionRequest:
        """What such a conversion is asked for."""
        statistics = self.workspace.statistics
        if preset is None:
            device = self.workspace.context.device if statistics else None
            return ConversionRequest(plan=plan, statistics=statistics, device=device)
        return ConversionRequest(
            preset=preset, imatrix=statistics / IMATRIX if statistics else None
        )

    def describe(self, spec: ArtefactSpec) -> Row:
        """The row with the command that makes the artefact."""
        row = self._row(spec)
        row.command += f" -o {shell_path(spec.path.name)}"
        return row

    def _row(self, spec: ArtefactSpec) -> Row:
        result = self.conversion(spec.path, plan=spec.plan, preset=spec.preset).describe()
        return planned_row(
            result, path=spec.path, name=spec.name, role="candidate", format=self.format
        )

    def write(self, spec: ArtefactSpec) -> Row:
        """Write the file, unless the one that is there is what would be written."""
        row = self._row(spec)
        request, context = self.request(spec.plan, spec.preset), self.comparison_context()
        kept = spec.path.exists() and is_same(spec.path, row, request, context)
        if spec.plan is not None and self.workspace.context.place is not None and not kept:
            write_layers(self.workspace, spec.plan, spec.path)
        make(row, request, context, overwrite=False)
        return row

    def prober(self, measured: Measured) -> GGUFProber:
        """Probes in llama.cpp."""
        return GGUFProber(workspace=self.workspace, costs=measured.costs)

    def memory_budget(self, request: OptimizeRequest, feasible: SizeRange) -> MemoryBudget:
        """What llama.cpp leaves for weights."""
        assert request.memory is not None, "no memory was asked for"
        chosen = request.chosen_target
        # A target's backend is known to read keys and values of one type.
        caches = [c for c in CACHES if chosen is None or c in chosen.operators.cache]
        return MemoryBudget(
            self.workspace, request.memory, request.context, feasible, caches or CACHES[:1]
        )

    def scorer(self, windows: Sequence[Window]) -> KLScorer:
        """Scores in llama.cpp."""
        return KLScorer(self.workspace, windows)

    def rewrite(self, plan: Path, out: Path, before: Path) -> None:
        """Encode again what changed its encoding."""
        rewrite(self.workspace, plan, out, before=[before], progress=Silent())

    def tuning_subject(
        self, plan: Path, artefact: Path, out: Path, windows: HeldOutWindows
    ) -> FileSubject:
        """The file of `plan`."""
        return FileSubject(
            workspace=self.workspace, artefact=artefact, out=out, trial=windows.trial
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GGUFProber:
    """Every kind of tensor quantized alone, the rest left at 16 bits, in llama.cpp.

    One file is on the disk at a time. None is written at 16 bits throughout: what these cost by
    themselves, 2e-6 nats, is below what any kind can be told from another by.
    """

    workspace: Workspace
    costs: Mapping[str, Mapping[str, float]]

    def kinds(self) -> Mapping[str, Sequence[str]]:
        """Every kind of matrix that text runs through."""
        kinds: dict[str, list[str]] = {}
        for name in self.costs:
            if not roles.drafts(self.workspace.model, name):
                kinds.setdefault(kind_of(name), []).append(name)
        return kinds

    def _encoding(self, name: str) -> str:
        return min(self.costs[name], key=lambda e: abs(encodings.get(e).bits - BITS))

    def predicted(self, names: Sequence[str]) -> float:
        """What these tensors should cost, each in the encoding nearest to BITS."""
        return sum(self.costs[name][self._encoding(name)] for name in names)

    @contextmanager
    def trials(self) -> Generator[Callable[[Sequence[str]], float]]:
        """A function that writes and scores a file; no tensors cost nothing."""
        workspace, progress = self.workspace, self.workspace.context.progress
        text = read_text(workspace.calibrated / HELD_TEXT)[0]
        reference = reference_gguf(workspace.source, progress=progress)
        with RUNTIME.open(reference, vocab_only=True) as engine:
            count = probe_windows(workspace.model.num_parameters)
            held = cut(engine, text, context=CONTEXT, windows=count, default=False)
        windows = [("held", ids) for ids in held.ids]
        with (
            own_files.scratch(workspace.folder, "probe") as scratch,
            KLScorer(workspace, windows) as scorer,
        ):
            scorer.read()
            path = scratch / "kind.gguf"

            def divergence(names: Sequence[str]) -> float:
                if not names:
                    return 0.0
                rules = [
                    RuleModel(
                        pattern=f"^{re.escape(n)}$", encoding=self._encoding(n), method="gptq"
                    )
                    for n in names
                ]
                plan = Plan(name=NAME, encoding="f16", rules=rules)
                rewrite(workspace, plan, path, before=[], progress=Silent())
                return float(scorer.kl(path, progress=Silent()).mean())

            yield divergence


@dataclass(slots=True, kw_only=True)
class FileSubject:
    """A GGUF that can be tuned, scored in llama.cpp; see TuningSubject."""

    workspace: Workspace
    artefact: Path
    out: Path
    trial: Sequence[Window]
    norms: bool = True

    def key(self) -> list[Any]:
        """The runtime's version and the file's hash."""
        return [RUNTIME.available().version, sha256(self.artefact)]

    def read(self, path: Path) -> Model:
        """A file as a model."""
        return families.load_model(open_source(path))

    def write(self, plan: Path, progress: Progress) -> None:
        """Write `out`; only what was tuned is encoded again."""
        rewrite(self.workspace, plan, self.out, before=[self.artefact], progress=progress)

    def score(self, training: ScaleTraining, progress: Progress) -> tuple[F64, F64]:
        """Divergence before and after on each trial window, in llama.cpp."""
        with KLScorer(self.workspace, self.trial) as scorer:
            return scorer.kl(self.artefact), scorer.kl(self.out)


ADAPTER = GGUFAdapter
