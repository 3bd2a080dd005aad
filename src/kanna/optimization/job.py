"""The request of an optimization checked against its source, and what its stages hand on."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kanna._util import own_files
from kanna.benchmark import costs
from kanna.calibration.windows import CalibrationWindows
from kanna.comparison.quality import check_reference, has_reference
from kanna.comparison.rows import Row
from kanna.optimization.adapters.base import Adapter, ArtefactSpec, PresetOffer
from kanna.optimization.budget import Budget
from kanna.optimization.constraints import Constraints
from kanna.optimization.context import Context, Workspace
from kanna.optimization.fine_tune import FineTune
from kanna.optimization.forecast import Forecast, accelerator_rates, machine_rates, shapes_of
from kanna.optimization.guard import Guard
from kanna.optimization.kl_scorer import HeldOutWindows
from kanna.optimization.local_search import LocalSearch
from kanna.optimization.measure import CANDIDATES, unmeasured
from kanna.optimization.memory_budget import MemoryBudget
from kanna.optimization.preflight import asked_budget, check_request
from kanna.optimization.request import Effort, OptimizeRequest
from kanna.optimization.search import PlannedArtefact, SizeRange, size_range
from kanna.optimization.speed_table import speed_goal
from kanna.optimization.time_budget import check_disk, choose
from kanna.plan.allocate import Choice

_SCRATCH = (
    ".judge-*",
    ".memory-*",
    ".levels-*",
    ".probe-*",
    ".swaps-*",
    ".correction-*",
    ".table-*",
    "*-guarded-trial*",
)
"""What a run leaves that is killed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A request that was checked against its source.

    Attributes:
        adapter: The format, for this source.
        constraints: What the user demands of some tensors.
        feasible: Bytes of artefacts that make sense.
        memory: What `--memory` leaves; None with any other budget.
        forecast: How much is done, and how long each stage takes.
        fine_tunes: What is merged into the source, or each adapter that lies beside it, and what an
            artefact must keep of it.
        guard: Tasks that an artefact must not lose.
    """

    request: OptimizeRequest
    context: Context
    adapter: Adapter
    constraints: Constraints
    feasible: SizeRange
    memory: MemoryBudget | None
    forecast: Forecast
    fine_tunes: Sequence[FineTune] = ()
    guard: Guard | None = None

    @property
    def fine_tune(self) -> FineTune | None:
        """What is merged into the source; None where nothing is."""
        return next((tune for tune in self.fine_tunes if tune.alone is None), None)

    @property
    def effort(self) -> Effort:
        """How far to go."""
        return self.forecast.extent.effort

    def candidates(self, adapter: Adapter) -> Sequence[str] | None:
        """Encodings that are measured: all of the format's, or what a time budget leaves of them.

        Args:
            adapter: The format.
        """
        extent = self.forecast.extent
        every = adapter.candidates()
        left = len(extent.candidates) < len(every or CANDIDATES)
        return extent.candidates if left else every

    @property
    def probes(self) -> bool:
        """Whether predictions are corrected by measurements."""
        return self.effort.probing and self.adapter.supports_probing

    @property
    def workspace(self) -> Workspace:
        """The source and the folder."""
        return self.adapter.workspace


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibratedSource:
    """The source with its statistics, and the text they are of.

    Attributes:
        adapter: The format, for the calibrated source.
        windows: The text that the source was calibrated on.
        held_out: Text that it was not.
    """

    adapter: Adapter
    windows: CalibrationWindows
    held_out: HeldOutWindows

    @property
    def statistics(self) -> Path:
        """The folder of statistics."""
        return self.adapter.workspace.calibrated


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """Who gets which bytes.

    Attributes:
        plan: The plan file.
        planned: What it makes.
        budget: What the user allows.
        choices: What the plan was chosen from.
        unconstrained: The same without the user's constraints.
        local_search: Trials of other plans of that size; None where there are none.
        tuned: Whether scales and norms are to be tuned.
    """

    plan: Path
    planned: PlannedArtefact
    budget: Budget
    choices: Sequence[Choice]
    unconstrained: Sequence[Choice]
    local_search: LocalSearch | None
    tuned: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """The artefacts: what makes them, and their rows in the report, the optimized one first.

    Attributes:
        baseline: The name of the plain preset among them, if one fits the budget.
        offers: Every plain preset.
    """

    specs: Sequence[ArtefactSpec]
    rows: Sequence[Row]
    baseline: str | None
    offers: Mapping[str, PresetOffer]


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What gate and evaluation came to.

    Attributes:
        rows: The artefacts within the budget.
        pick: Name of the closest one.
        recommended: Name of the one to use, why, and by what rule; none of them where the source
            itself is.
        evaluation: On what they were evaluated; {} where that could not be done.
        guard: What the tasks that guard it came to and what they took, as JSON has it; None where
            there are none.
    """

    rows: Sequence[Row]
    pick: str
    recommended: dict[str, Any]
    evaluation: dict[str, Any]
    guard: dict[str, Any] | None = None

    @property
    def best(self) -> Row:
        """The row of the artefact to use."""
        return next(row for row in self.rows if row.name == self.pick)

    def row(self, name: str | None) -> Row | None:
        """The row of this name, if it is there."""
        return next((row for row in self.rows if row.name == name), None)


def open_job(request: OptimizeRequest, context: Context) -> Job:
    """Check everything that can be checked before anything slow is done.

    Raises:
        UsageError: The request contradicts itself or the source.
        SourceError: An adapter does not fit the source.
        PlanError: The budget is below the smallest artefact; it names the feasible range.
        MissingError: Something that the format needs is not installed.
        GateError: Our reading of the source is not that of its own library.
    """
    checked = check_request(request, context)
    adapter, constraints = checked.adapter, checked.constraints
    model = adapter.workspace.model
    _check_here(adapter, request)
    spent = _follow_speed(request, adapter)
    adapter.prepare()
    choices = adapter.choices(unmeasured(model, adapter.candidates()), constraints)
    feasible = size_range(adapter, choices)
    memory = adapter.memory_budget(request, feasible) if request.memory is not None else None
    forecast = _forecast(request, adapter, spent)
    request = replace(request, tokens=forecast.extent.tokens, windows=forecast.extent.windows)
    job = Job(
        request=request,
        forecast=forecast,
        context=context,
        adapter=adapter,
        constraints=constraints,
        feasible=feasible,
        memory=memory,
        fine_tunes=checked.fine_tunes,
        guard=checked.guard,
    )
    budget = budget_of(job, adapter)
    feasible.check(budget.nbytes)
    adapter.check_speed(choices, budget.nbytes - feasible.fixed)
    _note(job, budget)
    source = adapter.workspace.source
    context.clock.restart()
    check_reference(source, [request.format], threads=context.threads, progress=context.progress)
    context.clock.lap("reference")
    request.out.mkdir(parents=True, exist_ok=True)
    _remove_scratch(request.out)
    return job


def _check_here(adapter: Adapter, request: OptimizeRequest) -> None:
    """Raise KannaError where this machine, or that of layers, lacks what the stages need."""
    context = adapter.workspace.context
    if request.counts_speed and request.speeds is None and request.chosen_target is None:
        costs.get(adapter.format).require()
    adapter.check_available()
    if (place := context.place) is None:
        return
    place.reach()
    if not adapter.supports_spreading:
        context.note(f"--on {place.on} measures encodings; {adapter.format} is written here")


def _note(job: Job, budget: Budget) -> None:
    """Note what the user should know before anything is made."""
    adapter, feasible = job.adapter, job.feasible
    job.context.note(*adapter.workspace.model.notes, *adapter.notes())
    if budget.nbytes > feasible.most:
        job.context.note(
            f"the budget is more than can be used: {feasible.least:,} bytes are the smallest file, "
            f"{feasible.most:,} the largest"
        )


def _follow_speed(request: OptimizeRequest, adapter: Adapter) -> float:
    """Let plans be chosen by speed, where it counts; seconds that measuring took.

    Raises:
        UsageError: The time budget has no room for measuring and all that follows.
    """
    workspace, began = adapter.workspace, time.monotonic()
    if request.time_budget is not None and request.counts_speed:
        shapes, rates = shapes_of(workspace.model), machine_rates()
        choose(request, adapter, shapes, rates, workspace.context.workers)
        began = time.monotonic()
    adapter.follow(speed_goal(request, workspace.source, workspace.model, workspace.context))
    return time.monotonic() - began


def _forecast(request: OptimizeRequest, adapter: Adapter, spent: float) -> Forecast:
    """How much is done and what it takes; raises KannaError where time or disk are too short."""
    context, shapes = adapter.workspace.context, shapes_of(adapter.workspace.model)
    accelerator, unknown = accelerator_rates(context.device)
    context.note(*([unknown] if unknown else []))
    rates = replace(machine_rates(), accelerator=accelerator)
    there = has_reference(adapter.workspace.source, [request.format])
    forecast = choose(
        request, adapter, shapes, rates, context.workers, spent=spent, referenced=there
    )
    check_disk(forecast, request.out)
    context.expected = {one.stage: one.seconds for one in forecast.stages}
    return replace(forecast, spent=spent)


def _remove_scratch(folder: Path) -> None:
    """Remove what a run left that was killed."""
    own_files.sweep_for(folder)
    for path in (p for pattern in _SCRATCH for p in folder.glob(pattern)):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def budget_of(job: Job, adapter: Adapter) -> Budget:
    """What the user allows, in bytes; a preset is sized with the statistics of the adapter."""
    return job.memory.budget if job.memory is not None else asked_budget(job.request, adapter)
