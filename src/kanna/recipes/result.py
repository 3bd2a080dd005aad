"""What `kanna.run` returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kanna._util.results import Result, ResultTable
from kanna.executors.base import JobOutcome
from kanna.recipes.prediction import PlannedStep
from kanna.recipes.records import BLOCKED, DONE, FAILED, KEPT, Manifest, StepState, TrialRecord


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class RunResult(Result):
    """A run of a recipe, or with `dry_run` what it would be.

    Attributes:
        folder: Where everything is.
        report: The page with the results of all steps; empty for a dry run.
        steps: What became of every step, in order.
        planned: Of a dry run, what would become of every step.
        outputs: Of the recipe, by name: the paths.
        trials: Of a search, every combination that was tried.
        importance: Of a search, how much of the first goal each variable decides.
        seconds: Time it took.
        dry_run: Whether nothing was run.
        files: Of a job elsewhere, what was written to describe it.
        commands: Of a job elsewhere, the shell lines that start it, or that fetch what it made.
        job: Of a job that a service has run from here, what became of it.
    """

    name: str
    folder: str
    report: str
    steps: list[StepState]
    planned: list[PlannedStep] = field(default_factory=list[PlannedStep])
    outputs: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    trials: list[TrialRecord] = field(default_factory=list[TrialRecord])
    importance: dict[str, float] = field(default_factory=dict[str, float])
    seconds: float = 0.0
    dry_run: bool = False
    files: list[str] = field(default_factory=list[str])
    commands: list[str] = field(default_factory=list[str])
    job: JobOutcome | None = None

    @classmethod
    def of(cls, manifest: Manifest, folder: Path, report: Path) -> RunResult:
        """The result of a run that ended."""
        return cls(
            name=manifest.name,
            folder=str(folder),
            report=str(report),
            steps=manifest.steps,
            outputs={
                name: [str(folder / path) for path in paths]
                for name, paths in manifest.outputs.items()
            },
            trials=manifest.trials,
            importance=manifest.importance,
            seconds=manifest.seconds,
        )

    def count(self, *states: str) -> int:
        """How many steps are in one of these states."""
        return sum(step.state in states for step in self.steps)

    @property
    def ok(self) -> bool:
        """Whether no step failed, nor the job."""
        return (self.job is None or self.job.ok) and not self.count(FAILED, BLOCKED)

    @property
    def exit_code(self) -> int:
        """0: all went well; 3: all that failed was not checkable here; else 1."""
        codes = {step.error.exit_code for step in self.steps if step.error is not None}
        return 0 if self.ok else 3 if codes == {3} else 1

    def headline(self) -> str:
        """How many steps ran, and how many did not need to."""
        if self.job:
            return f"{self.name}: the job {self.job.name}: {self.job.state}"
        if self.files:
            return f"{self.name}: {', '.join(self.files)}"
        if self.dry_run:
            kept = sum(step.state == KEPT for step in self.planned)
            return f"{self.name}: {len(self.planned)} steps, {kept} of them made already"
        parts = [f"{self.count(DONE)} steps run", f"{self.count(KEPT)} kept"]
        if not self.ok:
            parts.append(f"{self.count(FAILED, BLOCKED)} failed")
        return f"{self.name}: {', '.join(parts)}"

    def tables(self) -> Sequence[ResultTable]:
        """Every step."""
        rows = [
            (one.id, one.verb, one.state, f"{one.seconds:.1f}") for one in self.steps or ()
        ] or [(one.id, one.verb, one.state, "") for one in self.planned]
        return [ResultTable(columns=("step", "verb", "state", "seconds>"), rows=rows)]

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON has it."""
        return {
            "name": self.name,
            "folder": self.folder,
            "report": self.report,
            "dry_run": self.dry_run,
            "ran": self.count(DONE),
            "kept": self.count(KEPT),
            "failed": self.count(FAILED, BLOCKED),
            "seconds": self.seconds,
            "steps": [step.model_dump() for step in self.steps],
            "planned": [asdict(step) for step in self.planned],
            "trials": [trial.model_dump() for trial in self.trials],
            "importance": self.importance,
            "outputs": self.outputs,
            "files": self.files,
            "commands": self.commands,
            "job": asdict(self.job) if self.job else None,
        }
