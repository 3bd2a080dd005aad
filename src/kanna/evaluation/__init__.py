"""What the bits cost: KL divergence, perplexity and top-1 agreement against the source, in the real runtimes.

Reference and candidates read the text side by side, window by window; no logits are written to disk.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from kanna import runtimes
from kanna._util.progress import Progress, Silent
from kanna.errors import GateError, UsageError
from kanna.evaluation.divergence import F64, Scores, compare
from kanna.evaluation.reference import open_judged, open_reference, reference_gguf
from kanna.evaluation.stats import exp_ci, mean_ci
from kanna.evaluation.windows import Windows, cut, read_text
from kanna.formats.onnx import files
from kanna.runtimes.base import Engine
from kanna.sources import Source

__all__ = ["EvaluateResult", "evaluate", "evaluate_many", "reference_gguf"]

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateResult:
    """Figures of one artefact.

    KL is in nats, reference ‖ artefact; every `_ci` is the 95 % interval over windows, None for a
    single window; percentages are fractions of 1.
    """

    path: str
    perplexity: float
    perplexity_ci: Interval | None
    reference_perplexity: float
    reference_perplexity_ci: Interval | None
    perplexity_ratio: float
    perplexity_ratio_ci: Interval | None
    kl_mean: float
    kl_mean_ci: Interval | None
    kl_median: float
    kl_p99: float
    kl_p999: float
    kl_max: float
    top1: float
    top1_ci: Interval | None
    windows: int
    context: int
    positions: int
    tokens: int
    text: str
    reference: str
    seconds: float
    notes: list[str] = field(default_factory=list[str])

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def evaluate(
    artefact: str | Path,
    *,
    reference: str | Path | Source,
    text: str | Path | None = None,
    windows: int | None = None,
    context: int = 512,
    threads: int | None = None,
    revision: str | None = None,
    offline: bool = False,
    progress: Progress | None = None,
) -> EvaluateResult:
    """Score `artefact`, a GGUF or a folder that a runtime loads, against `reference`, any source.

    Raises MissingError without a runtime, UsageError for a text too short, GateError when the
    artefact's tokenizer differs from the reference's or its logits are not numbers.

    Args:
        artefact: What is scored.
        reference: The source it was made from.
        text: File to score; None: the WikiText-2 test set, its first 32 windows.
        windows: How many windows of `context` tokens; None: all of a given text.
        context: Tokens of a window, of which the second half is scored.
        threads: Threads to use; None: one per physical core.
        revision: Branch, tag or commit of a model on the hub.
        offline: Use only what is on this machine.
        progress: Where progress is reported; None: nowhere.
    """
    return evaluate_many(
        [artefact],
        reference=reference,
        text=text,
        windows=windows,
        context=context,
        threads=threads,
        revision=revision,
        offline=offline,
        progress=progress,
    )[0]


def evaluate_many(
    artefacts: Sequence[str | Path],
    *,
    reference: str | Path | Source,
    text: str | Path | None = None,
    windows: int | None = None,
    context: int = 512,
    threads: int | None = None,
    revision: str | None = None,
    offline: bool = False,
    progress: Progress | None = None,
) -> list[EvaluateResult]:
    """Like `evaluate` for several artefacts.

    The reference runs once per window for as many as fit in memory.
    """
    bar = progress or Silent()
    content, name = read_text(text, offline=offline)
    for path in artefacts:
        if not Path(path).exists():
            raise UsageError(
                f"{path} does not exist", expected="a .gguf file, or a folder that a runtime loads"
            )
        runtimes.of(path)
        if files.is_encoder(Path(path)):
            raise UsageError(
                f"{path} is an encoder: it has no next token to score",
                todo=f"kanna verify SRC {path} compares vectors",
            )
    ref, said = open_reference(
        reference,
        [Path(p) for p in artefacts],
        context=context,
        threads=threads,
        revision=revision,
        offline=offline,
        progress=progress,
    )
    results: list[EvaluateResult] = []
    with ref:
        work = cut(ref, content, context=context, windows=windows, default=text is None)
        group = _group_size(ref, context)
        bar.start("evaluate", len(work.ids) * len(artefacts), "windows")
        for start in range(0, len(artefacts), group):
            paths = [Path(p) for p in artefacts[start : start + group]]
            results += _evaluate_group(ref, said, paths, work, content, name, threads, bar)
        bar.finish()
    return results


def _group_size(ref: Engine, context: int) -> int:
    """How many artefacts may be open together: each holds the logits of half a window twice."""
    import psutil

    each = ref.vocab_size * context * 4 + (128 << 20)
    return max(1, int(psutil.virtual_memory().available * 0.4) // each)


def _evaluate_group(
    ref: Engine,
    said: str,
    paths: Sequence[Path],
    work: Windows,
    text: str,
    name: str,
    threads: int | None,
    bar: Progress,
) -> list[EvaluateResult]:
    begin = time.perf_counter()
    ref_nll: list[F64] = []
    scores: list[list[Scores]] = [[] for _ in paths]
    context = len(work.ids[0])
    with ExitStack() as stack:
        judged = [open_judged(p, context=context, threads=threads) for p in paths]
        engines = [stack.enter_context(engine) for engine, _ in judged]
        for engine in engines:
            _same_tokenizer(ref, engine, text)
        for ids in work.ids:
            targets = np.array(ids[work.first + 1 :])
            # The last position has no next token; llama.cpp's buffers are read in place, without a
            # copy.
            base = ref.logits(ids, first=work.first, copy=False)[:-1]
            others = [e.logits(ids, first=work.first, copy=False)[:-1] for e in engines]
            nll, found = compare(base, others, targets, threads=threads or _threads())
            ref_nll.append(nll)
            for path, mine, one in zip(paths, scores, found, strict=True):
                if not (np.isfinite(one.nll).all() and np.isfinite(one.kl).all()):
                    raise GateError(
                        f"{path} gives logits that are not numbers",
                        todo="convert again; do not use it",
                    )
                mine.append(one)
            bar.advance(len(paths))
    seconds = (time.perf_counter() - begin) / len(paths)
    found = [
        _result(p, ref_nll, s, work, name, said, seconds)
        for p, s in zip(paths, scores, strict=True)
    ]
    return [
        replace(r, notes=[*r.notes, note] if note else r.notes)
        for r, (_, note) in zip(found, judged, strict=True)
    ]


def _threads() -> int:
    from kanna.hardware.cpu import default_threads

    return default_threads()


def _same_tokenizer(ref: Engine, engine: Engine, text: str) -> None:
    if engine.vocab_size != ref.vocab_size:
        raise GateError(
            f"{engine.path} has a vocabulary of {engine.vocab_size} tokens",
            expected=f"{ref.vocab_size}, as {ref.path} has",
            todo="compare an artefact with the source it was made from",
        )
    # A sample is enough: whole texts of megabytes take seconds, and `verify` compares the
    # tokenizers thoroughly.
    sample = text[:50_000]
    if engine.tokenize(sample, add_bos=True) != ref.tokenize(sample, add_bos=True):
        raise GateError(
            f"{engine.path} tokenizes the text differently from {ref.path}",
            expected="the same token ids",
            todo="compare an artefact with the source it was made from, or convert it again",
        )


def _result(
    path: Path,
    ref_nll: list[F64],
    scores: list[Scores],
    work: Windows,
    name: str,
    said: str,
    seconds: float,
) -> EvaluateResult:
    base = np.array([w.mean() for w in ref_nll])
    mine = np.array([s.nll.mean() for s in scores])
    kl_mean, kl_mean_ci = mean_ci(np.array([s.kl.mean() for s in scores]), low=0)
    top1, top1_ci = mean_ci(np.array([s.top1.mean() for s in scores]), low=0, high=1)
    perplexity, perplexity_ci = exp_ci(mine)
    reference_perplexity, reference_perplexity_ci = exp_ci(base)
    # Paired by window: far tighter than the two perplexities on their own.
    ratio, ratio_ci = exp_ci(mine - base)
    kl = np.concatenate([s.kl for s in scores])
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
        windows=len(work.ids),
        context=len(work.ids[0]),
        positions=work.positions,
        tokens=sum(len(w) for w in work.ids),
        text=name,
        reference=said,
        seconds=seconds,
        notes=list(work.notes),
    )
