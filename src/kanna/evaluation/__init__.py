"""What the bits cost: KL divergence, perplexity and top-1 agreement against the source.

Reference and candidates read the text in their runtimes, window by window; no logits go to disk.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import overload

import numpy as np

from kanna import runtimes
from kanna._util.bars import shown
from kanna._util.nearest import absent
from kanna._util.progress import Progress
from kanna.checks import ReferenceCheck
from kanna.errors import GateError, NotFoundError, UsageError
from kanna.evaluation import tokenization
from kanna.evaluation.behaviour import compare_behaviour
from kanna.evaluation.divergence import F64, Scores, compare
from kanna.evaluation.long_context import evaluate_caches, refuse_beside
from kanna.evaluation.long_context.result import LongContextResult
from kanna.evaluation.precision import Extent, choose, is_reached
from kanna.evaluation.reference import (
    open_for_scoring,
    open_reference,
    reference_gguf,
    require_runtime,
)
from kanna.evaluation.reference_check import require
from kanna.evaluation.result import EvaluateResult
from kanna.evaluation.stats import exp_ci, mean_ci
from kanna.evaluation.tokenization import Tokenization
from kanna.evaluation.trained_length import tell_shorter_windows
from kanna.evaluation.windows import EvaluationWindows, cut, read_text, text_for
from kanna.formats.gguf import purpose
from kanna.formats.onnx import files
from kanna.hardware.cpu import default_threads
from kanna.runtimes.base import Engine
from kanna.sources import Source, locate, open_source
from kanna.tasks import choose as choose_tasks

__all__ = [
    "EvaluateResult",
    "Extent",
    "LongContextResult",
    "evaluate",
    "evaluate_many",
    "reference_gguf",
]

Watch = Callable[[list[EvaluateResult]], None]
_SHOW_EVERY = 5.0
"""Seconds between results that are not final."""
_WINDOW = 512


@overload
def evaluate(
    artefact: str | Path,
    *,
    reference: str | Path | Source,
    text: str | Path | None = None,
    windows: int | None = None,
    precision: float | str | None = None,
    tasks: str | Sequence[str] = (),
    examples: int | None = None,
    context: int | None = None,
    threads: int | None = None,
    revision: str | None = None,
    offline: bool = False,
    progress: Progress | None = None,
) -> EvaluateResult: ...


@overload
def evaluate(
    artefact: str | Path,
    *,
    kv_types: str | Sequence[str],
    text: str | Path | None = None,
    windows: int | None = None,
    context: int | None = None,
    threads: int | None = None,
    offline: bool = False,
    progress: Progress | None = None,
) -> LongContextResult: ...


def evaluate(
    artefact: str | Path,
    *,
    reference: str | Path | Source | None = None,
    kv_types: str | Sequence[str] = (),
    text: str | Path | None = None,
    windows: int | None = None,
    precision: float | str | None = None,
    tasks: str | Sequence[str] = (),
    examples: int | None = None,
    context: int | None = None,
    threads: int | None = None,
    revision: str | None = None,
    offline: bool = False,
    progress: Progress | None = None,
) -> EvaluateResult | LongContextResult:
    """Score `artefact`, a GGUF or a folder that a runtime loads, against `reference`, any source.

    With `kv_types` a GGUF is judged against itself instead: with those types of cached keys and
    values beside float16, at the end of long contexts.

    Raises MissingError without a runtime, UsageError for a text too short, GateError when the
    file's tokenizer differs from the reference's, its logits are not numbers, or the reference
    computes something else than the source's own library.

    Args:
        artefact: What is scored, any reference to it.
        reference: The source it was made from.
        kv_types: Types of keys and values of llama.cpp, `q8_0` for both, `q8_0:q4_0` for keys and
            values; one text with commas, or several.
        text: File to score; None: the WikiText-2 test set, its first 32 windows.
        windows: How many windows of `context` tokens; None: as many as the precision takes; with
            `kv_types` one.
        precision: `5%` or 0.05: stop where half the 95 % interval of the mean KL divergence is
            within this share of it; None: 5 %, unless `windows` are given.
        tasks: What both models are asked beside it, answered greedily: `maths`, `tool-calls`,
            `json`, `turns`, `code`, `choice:FILE.jsonl`, `lm-eval:TASK`; one text, or several.
        examples: Questions of each task at most; None: each task's own number.
        context: Tokens of a window, of which the second half is scored; None: 512, and with
            `kv_types` 8192 or as many as the model was trained on.
        threads: Threads to use; None: one per physical core.
        revision: Branch, tag or commit of a model on the hub.
        offline: Use only what is on this machine.
        progress: Where progress is reported; None: a bar in terminals and notebooks.
    """
    if kv_types:
        other = {"reference": reference, "precision": precision, "tasks": tasks or None}
        refuse_beside(other | {"examples": examples, "revision": revision})
        return evaluate_caches(
            artefact,
            kv_types,
            text=text,
            windows=windows,
            context=context,
            threads=threads,
            offline=offline,
            progress=progress,
        )
    if reference is None:
        raise UsageError(
            "no --reference to compare with",
            expected="the source the file was made from, or --kv-types to compare caches",
        )
    context = context or _WINDOW
    extent = choose(precision, windows, context)
    chosen = choose_tasks(tasks, examples)
    if revision is not None:
        reference = open_source(reference, revision=revision, offline=offline, progress=progress)
    [result] = evaluate_many(
        [artefact],
        reference=reference,
        text=text,
        extent=extent,
        threads=threads,
        offline=offline,
        progress=progress,
    )
    if not chosen:
        return result
    [behaviour] = compare_behaviour(
        [Path(result.path)],
        chosen,
        reference=reference,
        threads=threads,
        offline=offline,
        progress=progress,
    )
    return replace(
        result,
        tasks=behaviour.scores,
        task_loss=behaviour.loss,
        seconds=result.seconds + behaviour.seconds,
        notes=result.notes + behaviour.notes,
    )


def evaluate_many(
    artefacts: Sequence[str | Path],
    *,
    reference: str | Path | Source,
    text: str | Path | None = None,
    extent: Extent | None = None,
    threads: int | None = None,
    offline: bool = False,
    progress: Progress | None = None,
    watch: Watch | None = None,
) -> list[EvaluateResult]:
    """Like `evaluate` for several artefacts.

    The reference runs once per window for as many as fit in memory. `extent` is how much text is
    read, and `watch` is called every few seconds with what is known so far of the artefacts that
    are being scored.
    """
    progress, extent = shown(progress), extent or Extent()
    context = extent.context
    named = None if text is None else read_text(text)  # refused before anything is fetched
    paths = [locate(path, offline=offline, progress=progress) for path in artefacts]
    for path in paths:
        _check_artefact(path)
    tell_shorter_windows(paths, context, progress)
    opened = open_source(reference, offline=offline, progress=progress)
    content, name = named or read_text(text_for(opened, None), offline=offline)
    engine, title = open_reference(
        opened, paths, context=context, threads=threads, offline=offline, progress=progress
    )
    results: list[EvaluateResult] = []
    with engine:
        checked = require(opened, engine.path, threads=threads)
        tokens = tokenization.of_source(opened, engine)
        cuts = cut(
            engine,
            content,
            context=context,
            windows=extent.windows,
            default=text is None and not extent.thorough,
            tokenize=tokens.ids,
        )
        run = _Run(
            reference=engine,
            reference_title=title,
            reference_check=checked,
            windows=replace(cuts, notes=cuts.notes + tokens.notes + checked.notes),
            tokens=tokens,
            text=content,
            text_name=name,
            threads=threads,
            precision=extent.precision,
            watch=watch,
        )
        group = _group_size(engine, context)
        progress.start("evaluate", len(cuts.ids) * len(paths), "windows")
        for start in range(0, len(paths), group):
            results += _evaluate_group(run, paths[start : start + group], progress)
        progress.finish()
    return results


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """What all artefacts of one evaluation share."""

    reference: Engine
    reference_title: str
    reference_check: ReferenceCheck
    windows: EvaluationWindows
    tokens: Tokenization
    text: str
    text_name: str
    threads: int | None
    precision: float | None
    watch: Watch | None


def _check_artefact(path: Path) -> None:
    """Raise UsageError or FormatError for what has no next token to score."""
    if not path.exists():
        raise NotFoundError(absent(path), expected="a .gguf file, or a folder that a runtime loads")
    runtimes.of(path)
    if files.is_encoder(path) or not purpose.may_generate(path):
        raise UsageError(
            f"{path} is an encoder: it has no next token to score",
            todo=f"kanna verify SRC {path} compares vectors",
        )
    require_runtime(path)  # before a reference is made


def _group_size(reference: Engine, context: int) -> int:
    """How many artefacts may be open together: each holds the logits of half a window twice."""
    import psutil

    each = reference.vocab_size * context * 4 + (128 << 20)
    return max(1, int(psutil.virtual_memory().available * 0.4) // each)


def _evaluate_group(run: _Run, paths: Sequence[Path], progress: Progress) -> list[EvaluateResult]:
    """Score artefacts that are open together."""
    begin = watched = time.perf_counter()
    reference_nll: list[F64] = []
    scores: list[list[Scores]] = [[] for _ in paths]
    ids_of_windows, first = run.windows.ids, run.windows.first
    threads = run.threads or default_threads()
    with ExitStack() as stack:
        opened = [
            open_for_scoring(path, context=len(ids_of_windows[0]), threads=run.threads)
            for path in paths
        ]
        engines = [stack.enter_context(engine) for engine, _ in opened]

        def results() -> list[EvaluateResult]:
            seconds = (time.perf_counter() - begin) / len(paths)
            return [
                _result(run, path, reference_nll, of_path, seconds=seconds, notes=[note, other])
                for path, of_path, (_, note), other in zip(
                    paths, scores, opened, differing, strict=True
                )
            ]

        for engine in engines:
            tokenization.require_same_vocabulary(run.reference, engine)
        differing = [tokenization.compare(e, run.tokens, run.text) for e in engines]
        for ids in ids_of_windows:
            targets = np.array(ids[first + 1 :])
            # The last position has no next token; llama.cpp's buffers are read in place, without a
            # copy.
            base = run.reference.logits(ids, first=first, copy=False)[:-1]
            others = [e.logits(ids, first=first, copy=False)[:-1] for e in engines]
            nll, window_scores = compare(base, others, targets, threads=threads)
            reference_nll.append(nll)
            for path, earlier, new in zip(paths, scores, window_scores, strict=True):
                if not (np.isfinite(new.nll).all() and np.isfinite(new.kl).all()):
                    raise GateError(
                        f"{path} gives logits that are not numbers",
                        todo="convert again; do not use it",
                    )
                earlier.append(new)
            progress.advance(len(paths))
            if is_reached([[w.kl.mean() for w in of] for of in scores], run.precision):
                progress.advance(len(paths) * (len(ids_of_windows) - len(reference_nll)))
                break
            if run.watch and time.perf_counter() - watched > _SHOW_EVERY:
                run.watch(results())
                watched = time.perf_counter()
    return results()


def _result(
    run: _Run,
    path: Path,
    reference_nll: list[F64],
    scores: list[Scores],
    *,
    seconds: float,
    notes: Sequence[str],
) -> EvaluateResult:
    """Figures of one artefact from the scores of its windows."""
    base = np.array([w.mean() for w in reference_nll])
    mine = np.array([s.nll.mean() for s in scores])
    kl_mean, kl_mean_ci = mean_ci(np.array([s.kl.mean() for s in scores]), low=0)
    top1, top1_ci = mean_ci(np.array([s.top1.mean() for s in scores]), low=0, high=1)
    perplexity, perplexity_ci = exp_ci(mine)
    reference_perplexity, reference_perplexity_ci = exp_ci(base)
    # Paired by window: far tighter than the two perplexities on their own.
    ratio, ratio_ci = exp_ci(mine - base)
    kl = np.concatenate([s.kl for s in scores])
    windows = run.windows
    remarks = [*windows.notes, *(n for n in notes if n)]
    read = windows.ids[: len(scores)]
    if len(read) < len(windows.ids):
        remarks.append(
            f"scored on {len(read)} of {len(windows.ids)} windows: the KL divergence is known to "
            f"{run.precision or 1:.0%} from these; --precision or --windows for more"
        )
    p50, p99, p999 = (float(v) for v in np.quantile(kl, [0.5, 0.99, 0.999]))
    return EvaluateResult(
        path=str(path),
        perplexity=perplexity,
        perplexity_ci=perplexity_ci,
        reference_perplexity=reference_perplexity,
        reference_perplexity_ci=reference_perplexity_ci,
        perplexity_ratio=ratio,
        perplexity_ratio_ci=ratio_ci,
        kl_mean=kl_mean,
        kl_mean_ci=kl_mean_ci,
        kl_median=p50,
        kl_p99=p99,
        kl_p999=p999,
        kl_max=float(kl.max()),
        top1=top1,
        top1_ci=top1_ci,
        windows=len(read),
        context=len(read[0]),
        positions=sum(len(w) - 1 - windows.first for w in read),
        tokens=sum(len(w) for w in read),
        text=run.text_name,
        reference=run.reference_title,
        reference_check=run.reference_check,
        seconds=seconds,
        notes=remarks,
    )
