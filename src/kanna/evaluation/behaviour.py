"""The tasks, put to the reference and to files of it, each in an engine of its own."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kanna._util.bars import shown
from kanna._util.progress import Progress
from kanna.evaluation.reference import open_for_scoring, open_reference
from kanna.sources import Source, open_source
from kanna.tasks import ChosenTask
from kanna.tasks.answering import CONTEXT
from kanna.tasks.pairing import TaskScore, certain_loss
from kanna.tasks.run import OriginalAnswers, remarks


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """How a file does on the tasks beside its original.

    Attributes:
        path: The file.
        scores: Of each task.
        loss: Share that was surely lost, see `certain_loss`.
        seconds: Time it took, with its part of the original's.
        notes: Remarks.
    """

    path: Path
    scores: list[TaskScore]
    loss: float | None
    seconds: float
    notes: list[str]


def compare_behaviour(
    paths: Sequence[Path],
    chosen: Sequence[ChosenTask],
    *,
    reference: str | Path | Source,
    threads: int | None = None,
    offline: bool = False,
    progress: Progress | None = None,
) -> list[Behaviour]:
    """Ask the reference, then each file: one engine is open at a time.

    Args:
        paths: The files, each in its own runtime.
        chosen: The tasks.
        reference: The source they were made from.
        threads: Threads to use; None: one per physical core.
        offline: Use only what is on this machine.
        progress: Where progress is reported.

    Raises:
        GateError: A model gives logits that are not numbers.
    """
    progress, begin = shown(progress), time.perf_counter()
    original = ask_original(
        chosen, reference, paths, threads=threads, offline=offline, progress=progress
    )
    shared = (time.perf_counter() - begin) / len(paths)
    return compare_answers(paths, original, threads=threads, progress=progress, shared=shared)


def ask_original(
    chosen: Sequence[ChosenTask],
    reference: str | Path | Source,
    paths: Sequence[Path],
    *,
    threads: int | None = None,
    offline: bool = False,
    progress: Progress,
) -> OriginalAnswers:
    """What the reference answers, in the runtime that files of it are compared in.

    Args:
        chosen: The tasks.
        reference: The source that files were made from.
        paths: Such files.
        threads: Threads to use; None: one per physical core.
        offline: Use only what is on this machine.
        progress: Where progress is reported.

    Raises:
        GateError: It gives logits that are not numbers.
    """
    source = open_source(reference, offline=offline, progress=progress)
    engine, _ = open_reference(
        source, paths, context=CONTEXT, threads=threads, offline=offline, progress=progress
    )
    progress.start("tasks", sum(len(c.examples) for c in chosen), "questions")
    with engine:
        original = OriginalAnswers(chosen, engine, progress)
    progress.finish()
    return original


def compare_answers(
    paths: Sequence[Path],
    original: OriginalAnswers,
    *,
    threads: int | None = None,
    progress: Progress,
    shared: float = 0.0,
) -> list[Behaviour]:
    """Ask files what the original was asked, one after another.

    Args:
        paths: The files, each in its own runtime.
        original: Its answers.
        threads: Threads to use; None: one per physical core.
        progress: Where progress is reported.
        shared: Seconds that the original took for each of them.

    Raises:
        GateError: A file gives logits that are not numbers.
    """
    questions = sum(len(c.examples) for c in original.chosen)
    progress.start("tasks", len(paths) * questions, "questions")
    results: list[Behaviour] = []
    for path in paths:
        begin = time.perf_counter()
        opened, note = open_for_scoring(path, context=CONTEXT, threads=threads)
        with opened:
            scores = original.compare(opened, progress)
        results.append(
            Behaviour(
                path=path,
                scores=scores,
                loss=certain_loss(scores),
                seconds=shared + time.perf_counter() - begin,
                notes=[*remarks(path, scores), *([note] if note else [])],
            )
        )
    progress.finish()
    return results
