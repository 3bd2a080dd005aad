"""Quantization-aware adapting: trained on with the values a plan stores, kept where that is better.

An adapter that was trained as usual is trained on for half as many steps, at half of the speed,
while the model computes with what the plan will store of it (`planned_values`). Then both adapters
are merged, converted by the plan and scored in llama.cpp on the held-out examples: the one whose
file has the lower loss stays.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from kanna import conversion
from kanna._util.progress import Progress, remark
from kanna._util.units import format_size
from kanna.adapters import merged_source, open_adapter
from kanna.checks import Retention
from kanna.conversion import ConversionRequest, WriteOptions
from kanna.errors import MissingError
from kanna.runtimes.llamacpp import RUNTIME as LLAMA
from kanna.sources import Source
from kanna.training import loop, objectives, planned_values
from kanna.training.checkpoints import Checkpoints
from kanna.training.planned_values import PlannedValues, StoredTypes
from kanna.training.run import TrainingRun
from kanna.training.tokens import TokenizedExample
from kanna.training.watching import known

PLAIN, AWARE = "plain", "aware"
_SHARE = 0.5
"""Of the steps and of the learning rate of the plain run."""
_LEAST = 0.9
"""Share of the gain to keep that the figures name; nothing is refused for less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AwareOutcome:
    """What came of training on.

    Attributes:
        plan: The preset, or the plan's file.
        kept: `aware`, or `plain` where that does no better.
        plain: What the file of the plain adapter keeps of the gain: `share`, `interval`, `loss`.
        aware: The same of the other one.
        tuned_loss: Held-out loss of the plain adapter in float32, which shares are of.
        base_loss: Of the base.
        steps: That were made.
        every: Steps after which what is stored was encoded anew.
        seconds: That it took, both files among it.
    """

    plan: str
    kept: str
    plain: dict[str, Any]
    aware: dict[str, Any]
    base_loss: float
    tuned_loss: float
    steps: int
    every: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def require_runtime() -> None:
    """Raise MissingError where both adapters could not be measured in the end."""
    here = LLAMA.available()
    if not here.ok:
        raise MissingError(
            "--for measures both adapters in llama.cpp, which is not here",
            expected=here.remark or "the runtime of GGUF",
            todo=here.how_to_install,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AwarePhase:
    """What training on needs.

    Attributes:
        source: The base model.
        types: What the plan stores it in.
        save: Writes the adapter of a model of PEFT into a folder.
        threads: Threads to use.
        progress: Where progress is reported.
    """

    source: Source
    types: StoredTypes
    save: Callable[[Any, Path], None]
    threads: int
    progress: Progress
    _begin: float = field(init=False, default_factory=time.perf_counter)

    def run(
        self, task: loop.TrainingTask, adapted: Any, plain: TrainingRun, checkpoints: Checkpoints
    ) -> tuple[Any, AwareOutcome]:
        """Train on; the model with the adapter that is kept, and both figures.

        Args:
            task: That of the plain run.
            adapted: Its model, at its best.
            plain: Its run; its loss becomes that of the adapter that is kept.
            checkpoints: Where checkpoints and files lie meanwhile.
        """
        import peft

        with checkpoints:
            files = checkpoints.folder / "files"
            self.save(adapted, files / PLAIN)
            task = self._task(task, plain, checkpoints)
            self._tell(task)
            task.restore()
            adapted, run = loop.train(task)
            self.save(adapted, files / AWARE)
            kept = self._measure(files, task.held_out)
            better = kept[1].artefact_loss < kept[0].artefact_loss
            if better:
                judge = objectives.get(task.settings.objective).judge(task.held_out, task.settings)
                judged = judge(adapted)
                plain.best_loss, plain.best_figures = judged.loss, known(judged)
                plain.best_each = list(judged.each)
            else:
                peft.set_peft_model_state_dict(adapted, plain.state)
        checkpoints.remove()
        outcome = AwareOutcome(
            plan=self.types.name,
            kept=AWARE if better else PLAIN,
            plain=_figures(kept[0]),
            aware=_figures(kept[1]),
            base_loss=kept[0].base_loss,
            tuned_loss=kept[0].tuned_loss,
            steps=run.steps,
            every=planned_values.EVERY,
            seconds=time.perf_counter() - self._begin,
        )
        return adapted, outcome

    def _task(
        self, task: loop.TrainingTask, plain: TrainingRun, checkpoints: Checkpoints
    ) -> loop.TrainingTask:
        rate = float(plain.rate_test.get("rate", task.settings.learning_rate))
        settings = replace(
            task.settings,
            auto=False,
            learning_rate=rate * _SHARE,
            steps=max(1, round(plain.steps * _SHARE)),
            minutes=task.settings.minutes * _SHARE,
        )
        step = replace(task.step, together=plain.micro_batch, recomputes=plain.recomputes)
        return replace(
            task,
            settings=settings,
            step=step,
            checkpoints=checkpoints,
            begin=plain.state,
            planned=PlannedValues(types=self.types, threads=self.threads),
        )

    def _tell(self, task: loop.TrainingTask) -> None:
        """What it will take, before it begins."""
        settings = task.settings
        held = sum(p.numel() for p in task.model.parameters() if p.ndim == 2)
        remark(
            self.progress,
            f"Training goes on with values as {self.types.name} stores them: at most "
            f"{settings.total_steps(len(task.training))} steps and {settings.minutes:g} minutes, "
            f"encoded anew after every {planned_values.EVERY} steps, with "
            f"{format_size(2 * held)} of memory more for the values as they were. Then both "
            "adapters are converted and measured in llama.cpp.",
        )

    def _measure(self, files: Path, held_out: Sequence[TokenizedExample]) -> list[Retention]:
        """What the files of both adapters keep of the gain of the plain one."""
        from kanna.verification import retention  # which reads what training writes

        names = (PLAIN, AWARE)
        tuned = [merged_source(self.source, [(open_adapter(files / n), 1.0)]) for n in names]
        paths = [files / f"{name}.gguf" for name in names]
        plan = self.types.plan
        for source, path in zip(tuned, paths, strict=True):
            conversion.convert(
                source,
                path,
                ConversionRequest(plan=plan, preset=None if plan else self.types.name),
                options=WriteOptions(threads=self.threads, progress=self.progress),
            )
        case = retention.RetentionCase(
            base=self.source,
            tuned=tuned[0],
            artefacts=paths,
            examples=held_out,
            threads=self.threads,
        )
        return retention.measure(case, _LEAST, self.progress)


def _figures(kept: Retention) -> dict[str, Any]:
    interval = None if kept.interval is None else list(kept.interval)
    return {"share": kept.share, "interval": interval, "loss": kept.artefact_loss}


def words(outcome: dict[str, Any]) -> str:
    """What people read of it, as a sentence without its full stop.

    Args:
        outcome: `AwareOutcome.to_dict()`.
    """
    plain, aware = (_words(outcome[name]) for name in (PLAIN, AWARE))
    which = "the latter is kept" if outcome["kept"] == AWARE else "the plain one is kept"
    return (
        f"converted to {outcome['plan']}, the plain adapter {plain}, the one trained on with the "
        f"values that are stored {aware}: {which}"
    )


def _words(figures: dict[str, Any]) -> str:
    if figures["share"] is None:
        return f"has a held-out loss of {figures['loss']:.4f}"
    return f"keeps {figures['share']:.1%} of the gain (held-out loss {figures['loss']:.4f})"
