"""One table of a fine-tune: base and tuned model, stock llama.cpp's file, ours, and the two apart.

What is not there yet is made for the table in a folder of its own and removed: llama-quantize's
file where that program is on the PATH, and our base with the adapter beside it. GGUF alone.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from kanna.benchmark import bench
from kanna.calibration.statistics import IMATRIX
from kanna.checks import Retention
from kanna.comparison.rows import Row
from kanna.conversion import ConversionRequest, WriteOptions, convert, lone_adapter
from kanna.errors import KannaError
from kanna.evaluation.reference import reference_gguf
from kanna.evaluation.windows import read_text, text_for
from kanna.formats import gguf
from kanna.optimization.fine_tune import FineTune
from kanna.optimization.job import Allocation, CalibratedSource, Job, Proof
from kanna.training.held_answers import ROOM, Answers, answer, held_prompts
from kanna.training.tokens import ChatTokenizer, TokenizedExample
from kanna.verification import retention as gains
from kanna.verification.retention import BesideBase

SCRATCH = ".table-"
"""How the folder of what is made for the table begins."""
STOCK = "Q4_K_M"
"""The preset that people take of llama-quantize."""
_WINDOW, _WINDOWS = 256, 6
"""Of general text: tokens of a part, and how many are read."""
_MOST_WHOLE = 4 << 30
"""Bytes of the largest model whose 16 bits are written to be timed."""
_PROMPT = 512
"""Tokens of the prompt in a speed test."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Subject:
    """One row before it is measured.

    Attributes:
        name: As the table has it.
        given: What is loaded.
        nbytes: Its size.
        timed: The file whose speed and memory are those of the row; None: nothing is timed.
        row: Of the comparison, which has been timed already.
    """

    name: str
    given: Path | BesideBase
    nbytes: int | None
    timed: Path | None = None
    row: Row | None = None


def table(
    job: Job, calibration: CalibratedSource, allocation: Allocation, proved: Proof
) -> dict[str, Any]:
    """Rows and sample answers, for the report; {} without a fine-tune.

    Args:
        job: The optimization.
        calibration: Whose importance matrix is the base's, too.
        allocation: With the plan, by which the base is written, too.
        proved: The files.
    """
    tune = job.fine_tune
    if tune is None or job.request.format != gguf.FORMAT.name:
        return {}
    with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=job.workspace.folder) as scratch:
        folder = Path(scratch)
        subjects = [
            *_subjects(job, tune, proved, folder),
            *_apart(job, tune, allocation.plan, calibration.statistics / IMATRIX, folder),
        ]
        return _measured(job, tune, subjects)


def _subjects(job: Job, tune: FineTune, proved: Proof, folder: Path) -> list[_Subject]:
    """The models in 16 bits and merged; what is made for it lies in `folder`."""
    whole = _whole(tune, folder, job)
    size = whole.stat().st_size if whole else None
    subjects = [
        _Subject(name="base, 16 bits", given=reference_gguf(tune.base), nbytes=size, timed=whole),
        _Subject(name="tuned, 16 bits", given=reference_gguf(tune.tuned), nbytes=size, timed=whole),
    ]
    subjects += _stock(job, whole, folder)
    return subjects + [
        _Subject(name=f"tuned, {row.name}", given=Path(row.path), nbytes=row.file_bytes, row=row)
        for row in proved.rows
        if row.path and row.retention
    ]


def _whole(tune: FineTune, folder: Path, job: Job) -> Path | None:
    """The tuned model in 16 bits, which the base is as large and as fast as; None if too large."""
    if 2 * sum(t.nbytes for t in tune.tuned.tensors.values()) > _MOST_WHOLE:
        job.context.note("16 bits were not timed: the model is large")
        return None
    out = folder / "whole.gguf"
    how = WriteOptions(threads=job.context.workers)
    convert(tune.tuned, out, ConversionRequest(preset="F16"), format="gguf", options=how)
    return out


def _stock(job: Job, whole: Path | None, folder: Path) -> list[_Subject]:
    """llama-quantize's file of the tuned model, where that program is here."""
    program = shutil.which("llama-quantize")
    if program is None or whole is None:
        job.context.note(
            "the table has no file of llama-quantize: put the program on the PATH for one"
        )
        return []
    out = folder / "stock.gguf"
    command = [program, str(whole), str(out), STOCK, str(job.context.workers)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = " ".join(done.stderr.split())[-200:]
        job.context.note(f"llama-quantize made no {STOCK} of the tuned model: {last}")
        return []
    name = f"tuned, llama-quantize {STOCK}"
    return [_Subject(name=name, given=out, nbytes=out.stat().st_size, timed=out)]


def _apart(job: Job, tune: FineTune, plan: Path, imatrix: Path, folder: Path) -> list[_Subject]:
    """The base by the same plan, with the adapter beside it."""
    if len(job.request.adapter) != 1 or job.request.adapter[0][1] != 1:
        return []
    alone, base = folder / "lora.gguf", folder / "base.gguf"
    how = WriteOptions(threads=job.context.workers)
    try:
        lone_adapter.convert(
            tune.base, job.request.adapter[0][0], alone, format="gguf", options=how
        )
        request = ConversionRequest(plan=plan, imatrix=imatrix)
        convert(tune.base, base, request, format="gguf", options=how)
    except KannaError as error:
        job.context.note(f"the table has no adapter apart from its base: {error.found}")
        return []
    size = base.stat().st_size + alone.stat().st_size
    return [
        _Subject(
            name="base by the same plan, adapter apart",
            given=BesideBase(base=base, adapter=alone),
            nbytes=size,
        )
    ]


def _measured(job: Job, tune: FineTune, subjects: Sequence[_Subject]) -> dict[str, Any]:
    """Losses, speed and answers of every row."""
    context = job.context
    chats = ChatTokenizer.of_source(tune.tuned, _WINDOW)
    case = gains.RetentionCase(
        base=tune.base,
        tuned=tune.tuned,
        artefacts=[s.given for s in subjects],
        examples=_general(job, tune, chats),
        threads=context.workers,
    )
    general = gains.measure(case, 0.0, context.progress)
    again = [s for s in subjects if s.row is None]
    judged = replace(case, artefacts=[s.given for s in again], examples=tune.held_out)
    domain = dict(
        zip([s.name for s in again], gains.measure(judged, 0.0, context.progress), strict=True)
    )
    speeds = _speeds(job, subjects)
    prompts = held_prompts(tune.judging, chats)
    context.progress.start("answers", len(subjects) * len(prompts), "prompts")
    answers: list[Answers] = []
    for subject in subjects:
        with gains.opened(judged, subject.given, room=ROOM) as engine:
            answers.append(answer(engine, prompts, chats, context.progress))
    context.progress.finish()
    rows = [
        _row(s, kept, speeds, domain, given)
        for s, kept, given in zip(subjects, general, answers, strict=True)
    ]
    samples = [
        {
            "prompt": prompt.text,
            "wanted": prompt.wanted,
            "answers": [given.texts[at] for given in answers],
        }
        for at, prompt in enumerate(prompts)
        if prompt.shown
    ]
    return {"rows": rows, "samples": samples, "general_tokens": general[0].tokens}


def _general(job: Job, tune: FineTune, chats: ChatTokenizer) -> list[TokenizedExample]:
    """Parts of the text that the files are evaluated on, which is none of the domain."""
    text, _ = read_text(text_for(tune.tuned, job.request.text), offline=job.request.offline)
    ids: list[int] = chats.tokenizer(text[: _WINDOW * _WINDOWS * 8], verbose=False)["input_ids"]
    parts = [ids[at : at + _WINDOW] for at in range(0, _WINDOW * _WINDOWS, _WINDOW)]
    return [TokenizedExample(ids=part, labels=part) for part in parts if len(part) > 1]


def _speeds(job: Job, subjects: Sequence[_Subject]) -> dict[Path, dict[str, Any]]:
    """Peak memory and tokens per second of the files that no row has them of."""
    files = list(dict.fromkeys(s.timed for s in subjects if s.timed is not None))
    if not files:
        return {}
    try:
        results = bench(
            files,
            prompt_tokens=_PROMPT,
            repeat=1,
            threads=job.context.threads,
            progress=job.context.progress,
        )
    except KannaError as error:
        job.context.note(f"16 bits were not timed: {error.found}")
        return {}
    return {file: result.to_dict() for file, result in zip(files, results, strict=True)}


def _row(
    subject: _Subject,
    general: Retention,
    speeds: dict[Path, dict[str, Any]],
    domain: dict[str, Retention],
    answers: Answers,
) -> dict[str, Any]:
    row = subject.row
    kept = asdict(domain[subject.name]) if row is None else dict(row.retention or {})
    timed = asdict(row) if row else speeds.get(subject.timed, {}) if subject.timed else {}
    return {
        "name": subject.name,
        "file_bytes": subject.nbytes,
        "peak_bytes": timed.get("peak_bytes"),
        "gen_tps": timed.get("gen_tps"),
        "domain_loss": kept["artefact_loss"],
        "general_loss": general.artefact_loss,
        "tasks": row.tasks if row else [],
        "calls": asdict(answers.calls) if answers.calls else None,
        "kl": kept["kl"],
        "share": kept["share"],
        "interval": kept["interval"],
    }
