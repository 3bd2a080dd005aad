"""A run from its checked request to its place on the disk."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kanna._util.progress import Progress
from kanna.calibration import devices
from kanna.errors import UsageError
from kanna.formats import folder_files
from kanna.formats.stream import replacing
from kanna.training import (
    aware,
    drafts,
    lengths,
    notes,
    objectives,
    packing,
    with_mlx,
    with_torch,
    written,
)
from kanna.training.checkpoints import Checkpoints
from kanna.training.gate_file import GateFile
from kanna.training.held_answers import calling_prompts
from kanna.training.job import AdapterJob, Learning, Trained
from kanna.training.result import AdaptResult, gate_notes
from kanna.training.settings import FULL, MLX, TORCH
from kanna.training.tokens import ChatTokenizer


def run(job: AdapterJob, out: Path, begin: float, progress: Progress) -> AdaptResult:
    """Train, and write what came of it.

    Args:
        job: The run.
        out: The folder to write.
        begin: When it was asked for, as time.perf_counter() tells it.
        progress: Where progress is reported.
    """
    tokenizer, context = job.tokenizer()
    if job.teacher is not None:
        job.teacher.check(tokenizer, job.source.given)
    if job.draft is not None:
        job.draft.check(tokenizer, job.source.given)
    chats = ChatTokenizer.of(
        tokenizer, folder_files.files(job.folder), min(job.max_length, context)
    )
    training, held_out = _tokens(job, chats)
    _refuse_nothing(training, held_out, chats)
    padding = _padding(job, chats, training)
    below = [padding.line(job.settings.packing)] if padding else []
    lengths.tell(lengths.measure(chats.lengths, chats.most), below, progress)
    if job.gate_file is not None:
        job.gate_file.require_room(out, progress)
    checkpoints = Checkpoints(job.unfinished(out), job.settings.backend)
    with replacing(out) as folder, checkpoints:
        folder.mkdir()
        if job.teacher is not None:
            training, held_out = job.teacher.teach(
                (training, held_out), checkpoints.teacher, progress
            )
        task = Learning(
            folder=folder,
            tokenizer=tokenizer,
            chats=chats,
            training=training,
            held_out=held_out,
            padding=padding,
            checkpoints=checkpoints,
            progress=progress,
        )
        learn = with_mlx.learn if job.settings.backend == MLX else with_torch.learn
        trained = learn(job, task)
        gate = _gate(job, task, trained, job.gate_file) if job.gate_file else {}
        result = _result(job, task, trained, gate, out, begin)
        written.report(folder, result)
    checkpoints.remove()  # the adapter is in its place
    written.track(job, out, result)
    return result


def _tokens(job: AdapterJob, chats: ChatTokenizer) -> tuple[list[Any], list[Any]]:
    """What is learned and what is held out, in tokens.

    Read in the order of the files, so that an error names the first line that has it.
    """
    objective = objectives.get(job.settings.objective)
    every = {id(record): objective.tokens(chats, [record]) for record in job.read.examples}
    training, held_out = (
        [one for record in part for one in every[id(record)]]
        for part in (job.split.training, job.split.held_out)
    )
    return training, held_out


def _padding(
    job: AdapterJob, chats: ChatTokenizer, training: Sequence[Any]
) -> packing.Padding | None:
    """What packing would save; None where pairs are learned, or mlx-lm trains, which pads."""
    settings = job.settings
    if settings.objective in objectives.PAIRS or settings.backend != TORCH:
        return None
    sizes = [one.read for one in training]
    return packing.measure(sizes, settings.batch, chats.most, settings.seed)


def _gate(job: AdapterJob, task: Learning, trained: Trained, file: GateFile) -> dict[str, Any]:
    """What llama.cpp makes of the adapter that was written."""
    from kanna.training import gate  # loads what verifies files

    if job.settings.backend == TORCH:
        devices.release()  # the model that was trained: the runtime needs the room
    wanted = objectives.get(job.settings.objective).wanted(job.split.held_out)
    case = gate.AdapterCase(
        file=file,
        adapter=task.folder,
        held_out=task.held_out,
        run=trained.run,
        prompts=calling_prompts(wanted, task.chats),
        calls=trained.calls,
        chats=task.chats,
        scratch=task.checkpoints.folder / "gate",
        threads=job.threads,
        progress=task.progress,
    )
    return case.check().to_dict()


def _refuse_nothing(training: Sequence[Any], held_out: Sequence[Any], chats: ChatTokenizer) -> None:
    if not training or not held_out:
        raise UsageError(
            f"no answer begins within {chats.most} tokens in {chats.unlearned} examples",
            expected="examples that fit",
            todo="raise --max-length, or shorten the prompts",
        )


def _result(
    job: AdapterJob, task: Learning, trained: Trained, gate: dict[str, Any], out: Path, begin: float
) -> AdaptResult:
    chats, training = task.chats, task.training
    run, aware_outcome = trained.run, trained.changed["aware"]
    return AdaptResult(
        path=str(out),
        base=job.source.given,
        objective=job.settings.objective,
        base_loss=run.base_loss,
        tuned_loss=run.best_loss,
        steps=run.steps,
        best_step=run.best_step,
        stopped=run.stopped,
        examples={
            "train": len(training),
            "held_out": len(job.split.held_out),
            "duplicates": job.read.duplicates,
            "near_duplicates": job.split.near,
            "cut": chats.cut,
            "unlearned": chats.unlearned,
        },
        lengths=asdict(lengths.measure(chats.lengths, chats.most)),
        tokens=sum(one.learned for one in training),
        settings=_settings(job, trained),
        rate_test=run.rate_test,
        history=run.history,
        seconds=time.perf_counter() - begin,
        report=str(out / written.PAGE),
        **trained.changed,
        gate=gate,
        notes=[
            *notes.of(job.settings, job.read, job.split.near, chats, run),
            *([aware.words(aware_outcome)] if aware_outcome else []),
            *packing.notes(trained.changed.get("packing", {})),
            *gate_notes(gate),
            *drafts.notes(trained.changed.get("draft", {})),
        ],
    )


def _settings(job: AdapterJob, trained: Trained) -> dict[str, Any]:
    """How it was trained, with the learning rate that a test found."""
    run = trained.run
    given = asdict(job.settings) | {"max_length": job.max_length}
    given["alpha"] = job.settings.strength
    if job.settings.method == FULL:
        given |= {"rank": None, "alpha": None}
    given["packing"] = trained.changed.get("packing", {}).get("used", False)
    if run.rate_test:
        given["learning_rate"] = run.rate_test["rate"]
    given |= {"teacher": job.teacher.source.given} if job.teacher else {}
    return given | ({"for_plan": job.types.name} if job.types else {})
