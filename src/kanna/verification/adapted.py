"""An artefact of a base and adapters, held to the merged model and to what the fine-tune gained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kanna._util.progress import Progress
from kanna.adapters import AdapterWeights, merged_source, open_adapters
from kanna.checks import Check, Retention
from kanna.errors import UsageError
from kanna.evaluation.reference import reference_folder
from kanna.hardware.cpu import default_threads
from kanna.sources import Source, open_source
from kanna.tasks import ChosenTask, choose
from kanna.verification import retention, task_retention
from kanna.verification.retention import BesideBase, RetentionCase
from kanna.verification.task_retention import TaskRetention


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptedCase:
    """An artefact, what it was made of, and what judges it; see `kanna.verify`.

    Attributes:
        base: The model before the fine-tune.
        adapter: What was merged into it, or lies beside it.
        artefact: The file or folder.
        beside: The file of the base that an adapter alone lies beside, as it was named.
        data: Held-out examples; None: those beside the adapter.
        tasks: Tasks that the fine-tune gained on.
        least: Share of each gain that must be kept.
        threads: Threads to use; None: one per physical core.
        offline: Use only what is on this machine.
    """

    base: Source
    adapter: AdapterWeights
    artefact: Path
    beside: str | Path | None
    data: str | Path | Sequence[str | Path] | None
    tasks: Sequence[ChosenTask]
    least: float
    threads: int | None
    offline: bool


def judge(
    case: AdaptedCase, hold: Callable[[Source], list[Check]], progress: Progress
) -> tuple[list[Check], Retention | None, list[TaskRetention]]:
    """The checks of an artefact against the merged model, and what it keeps of the gain.

    Args:
        case: The artefact.
        hold: The checks of the artefact against a source.
        progress: Where progress is reported.

    Raises:
        UsageError: The share is none, or what judges the artefact cannot.
    """
    if not 0 <= case.least <= 1:
        raise UsageError(f"a retention of {case.least}", expected="a share from 0 to 1")
    adapters = open_adapters(case.adapter, offline=case.offline)
    artefact = case.artefact
    base = retention.base_beside(artefact, case.beside, offline=case.offline, progress=progress)
    tuned = merged_source(case.base, adapters)
    alone = retention.is_adapter(artefact)
    held = retention.held_out(adapters[0][0], case.data, tuned)
    made: list[Check] = []
    if not alone:
        made = hold(_held_to(tuned, progress))
        if any(one.ok is False for one in made):
            return made, None, []
    compared = RetentionCase(
        base=case.base,
        tuned=tuned,
        artefacts=[artefact if base is None else BesideBase(base=base, adapter=artefact)],
        examples=held,
        threads=case.threads or default_threads(),
    )
    [measured] = retention.measure(compared, case.least, progress)
    # Beside a base in few bits an adapter computes what no merged model does.
    made += retention.check(measured, alone=alone and base is None)
    [kept] = task_retention.measure(compared, case.tasks, case.least, progress)
    return made + [task_retention.check(one) for one in kept], measured, kept


def chosen_tasks(tasks: str | Sequence[str], examples: int | None) -> list[ChosenTask]:
    """The tasks that judge a fine-tune, with their questions.

    Args:
        tasks: Their names.
        examples: Questions of each at most; None: each task's own number.

    Raises:
        UsageError: One cannot be asked, or questions are counted of none.
    """
    if examples is not None and not tasks:
        raise UsageError(
            f"--examples {examples} counts questions of tasks, and none was named",
            expected="--tasks TASK",
        )
    return choose(tasks, examples)


def refuse_without(
    data: str | Path | Sequence[str | Path] | None,
    beside: str | Path | None,
    tasks: Sequence[ChosenTask],
) -> None:
    """Raise UsageError for what judges a fine-tune where no adapter is named.

    Args:
        data: Held-out examples.
        beside: A file of the base.
        tasks: Tasks.
    """
    if tasks:
        raise UsageError(
            f"the task {tasks[0].name} was named, and no adapter whose gain on it could be kept",
            expected="--adapter",
            todo="compare a file with its source by kanna evaluate FILE --reference SRC --tasks",
        )
    if data is not None or beside is not None:
        named = "held-out examples were" if data is not None else f"--beside {beside} was"
        raise UsageError(f"{named} named, and no adapter", expected="--adapter")


def _held_to(tuned: Source, progress: Progress) -> Source:
    """The merged model as a source: a GGUF by its own keys, which a folder made of it changes."""
    if tuned.gguf is not None:
        return tuned
    return open_source(reference_folder(tuned, progress=progress))
