"""Retention: the share of what a fine-tune gained on held-out examples that an artefact keeps.

(loss of the base − loss of the artefact) / (loss of the base − loss of the tuned model), each in
the runtime that the artefact runs in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kanna._util.nearest import absent
from kanna._util.progress import Progress
from kanna.adapters import LoraAdapter
from kanna.checks import Check, Retention
from kanna.errors import NotFoundError, UsageError
from kanna.evaluation.divergence import F64, compare
from kanna.evaluation.reference import (
    open_for_scoring,
    open_reference,
    reference_gguf,
)
from kanna.evaluation.reference_check import require
from kanna.formats import gguf
from kanna.runtimes.base import Engine
from kanna.runtimes.llamacpp import RUNTIME as LLAMA
from kanna.sources import Source, locate
from kanna.training import examples, learned
from kanna.training.examples import HELD_OUT
from kanna.training.tokens import UNLEARNED, ChatTokenizer, TokenizedExample

LEAST = 0.9
"""Share of the gain that an artefact must keep, unless another is asked for."""
_MOST = 1024
"""Tokens of an example that are read."""
_APART = 1e-4
"""Most nats of KL divergence between an adapter beside its base, and the two merged."""
_RESAMPLED = 1000
_MIN_EXAMPLES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class BesideBase:
    """A file of the base with an adapter in GGUF beside it, as a runtime switches it on.

    Attributes:
        base: The file of the base.
        adapter: The adapter alone.
    """

    base: Path
    adapter: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionCase:
    """What is compared.

    Attributes:
        base: The model before the fine-tune.
        tuned: The same with the adapter merged in.
        artefacts: Models, adapters alone in GGUF, or these beside a file of the base.
        examples: Held-out examples in tokens.
        threads: Threads to use.
    """

    base: Source
    tuned: Source
    artefacts: Sequence[Path | BesideBase]
    examples: Sequence[TokenizedExample]
    threads: int

    @property
    def context(self) -> int:
        """Tokens of the longest example."""
        return max(64, *(len(one.ids) for one in self.examples))


def is_adapter(path: Path) -> bool:
    """Whether a file is an adapter in GGUF."""
    return path.is_file() and gguf.read(path).value("general.type") == "adapter"


def base_beside(
    artefact: Path, beside: str | Path | None, *, offline: bool, progress: Progress
) -> Path | None:
    """The file of the base that an adapter lies beside; None: it is not named.

    Args:
        artefact: The adapter alone.
        beside: That file, as it was named.
        offline: Use only what is on this machine.
        progress: Where progress is reported.

    Raises:
        UsageError: What is to lie beside it is no adapter in GGUF.
        NotFoundError: There is no such file.
    """
    if beside is None:
        return None
    if not is_adapter(artefact):
        raise UsageError(
            f"--beside with {artefact}, which is no adapter",
            expected="an adapter alone, in GGUF",
            todo="kanna convert SRC --adapter FOLDER -o lora.gguf writes it",
        )
    base = locate(beside, offline=offline, check=False, progress=progress)
    if not base.is_file():
        raise NotFoundError(absent(base), expected="a GGUF of the base, which --beside names")
    return base


def held_out(
    adapter: LoraAdapter, data: str | Path | Sequence[str | Path] | None, tuned: Source
) -> list[TokenizedExample]:
    """The examples that judge an adapter, in tokens of the tuned model.

    Args:
        adapter: The adapter; `kanna adapt` leaves its held-out examples beside it.
        data: Files of others; None: those.
        tuned: The tuned model.

    Raises:
        UsageError: There are none, or the adapter learned from some of them.
        MissingError: transformers is not here, which reads the tokenizer.
    """
    if data is None:
        data = adapter.path / HELD_OUT
        if not data.is_file():
            raise UsageError(
                f"{adapter.given} has no {HELD_OUT}",
                expected="examples that nothing was learned from",
                todo="name some: --data held-out.jsonl",
            )
        given = examples.read(data).examples
    else:
        given = examples.read(data).examples
        learned.refuse(adapter.path, given)
    tokens = ChatTokenizer.of_source(tuned, _MOST).all(given)
    if not tokens:
        raise UsageError("no held-out example has an answer", todo="name others: --data FILE")
    return tokens


def measure(case: RetentionCase, least: float, progress: Progress) -> list[Retention]:
    """Score base, tuned model and artefacts on the held-out examples.

    Args:
        case: What is compared.
        least: Share that must be kept.
        progress: Where progress is reported.

    Returns:
        The figures of each artefact.
    """
    progress.start("retention", (1 + len(case.artefacts)) * len(case.examples), "examples")
    context, threads = case.context, case.threads
    judged = [whole(case, one) for one in case.artefacts]
    engine, _ = open_reference(case.base, judged, context=context, threads=threads)
    with engine:
        require(case.base, engine.path, threads=threads)
        before = [_base_nats(engine, one, progress) for one in case.examples]
    measured: list[Retention] = []
    tuned, _ = open_reference(case.tuned, judged, context=context, threads=threads)
    with tuned:
        for one in case.artefacts:
            with opened(case, one) as artefact:
                scores = [_scores(tuned, artefact, e, case, progress) for e in case.examples]
            after, kept, divergences = ([s[i] for s in scores] for i in range(3))
            kl = float(np.concatenate(divergences).mean())
            measured.append(_judged(before, after, kept, kl, least))
    progress.finish()
    return measured


def _scores(
    tuned: Engine,
    artefact: Engine,
    one: TokenizedExample,
    case: RetentionCase,
    progress: Progress,
) -> tuple[F64, F64, F64]:
    """Of each learned token: loss of the tuned model, loss of the artefact, KL divergence."""
    first, places, targets = _places(one)
    wanted = tuned.logits(one.ids, first=first, copy=False)[places]
    given = artefact.logits(one.ids, first=first, copy=False)[places]
    nll, [scores] = compare(wanted, [given], targets, threads=case.threads)
    progress.advance(1)
    return nll, scores.nll, scores.kl


def whole(case: RetentionCase, given: Path | BesideBase) -> Path:
    """The model that is run: an adapter alone goes beside the base in float32.

    Args:
        case: What is compared.
        given: One of its artefacts.
    """
    if isinstance(given, BesideBase):
        return given.base
    return reference_gguf(case.base) if is_adapter(given) else given


def opened(case: RetentionCase, given: Path | BesideBase, *, room: int = 0) -> Engine:
    """One of the artefacts of a case, in its runtime.

    Args:
        case: How it is opened.
        given: The artefact.
        room: Tokens that its context has beyond those of the longest example.
    """
    context, threads, path = case.context + room, case.threads, whole(case, given)
    beside = given.adapter if isinstance(given, BesideBase) else given
    if beside != path:
        adapters: dict[str | Path, float] = {beside: 1.0}
        return LLAMA.open(path, context=context, threads=threads, adapters=adapters)
    return open_for_scoring(path, context=context, threads=threads)[0]


def _places(one: TokenizedExample) -> tuple[int, NDArray[np.int64], NDArray[np.int64]]:
    """First position to compute, rows after it whose next token was learned, those tokens."""
    learned = [i for i, label in enumerate(one.labels[1:]) if label != UNLEARNED]
    first = learned[0]
    targets = np.array([one.labels[i + 1] for i in learned])
    return first, np.array(learned, dtype=np.int64) - first, targets


def learned_nats(engine: Engine, one: TokenizedExample) -> F64:
    """Nats of every learned token of an example, in a runtime.

    Args:
        engine: The model.
        one: The example.
    """
    first, places, targets = _places(one)
    return compare(engine.logits(one.ids, first=first, copy=False)[places], [], targets)[0]


def _base_nats(engine: Engine, one: TokenizedExample, progress: Progress) -> F64:
    nats = learned_nats(engine, one)
    progress.advance(1)
    return nats


def _judged(
    before: Sequence[F64], after: Sequence[F64], kept: Sequence[F64], kl: float, least: float
) -> Retention:
    sums = np.array([[nll.sum() for nll in losses] for losses in (before, after, kept)])
    counts = np.array([len(nll) for nll in before])
    base, tuned, artefact = (float(s) for s in sums.sum(axis=1) / counts.sum())
    gain = base - tuned
    return Retention(
        share=(base - artefact) / gain if gain > 0 else None,
        interval=interval(sums) if gain > 0 else None,
        base_loss=base,
        tuned_loss=tuned,
        artefact_loss=artefact,
        kl=kl,
        examples=len(counts),
        tokens=int(counts.sum()),
        least=least,
    )


def interval(sums: F64) -> tuple[float, float] | None:
    """The 95 % interval of the share, by drawing the examples again; None for a few examples.

    Args:
        sums: Of every example, base, tuned model and artefact: f64 [3, examples].
    """
    count = sums.shape[1]
    if count < _MIN_EXAMPLES:
        return None
    drawn = np.random.default_rng(0).integers(0, count, (_RESAMPLED, count))
    base, tuned, artefact = (row[drawn].sum(axis=1) for row in sums)
    gains = base - tuned
    if (gains <= 0).mean() > 0.01:
        return None
    shares = ((base - artefact) / gains)[gains > 0]
    low, high = np.quantile(shares, [0.025, 0.975])
    return float(low), float(high)


def check(retention: Retention, *, alone: bool) -> list[Check]:
    """What the figures say of the artefact.

    Args:
        retention: The figures.
        alone: Whether it is an adapter alone, which must compute what the merged model does.
    """
    losses = (
        f"held-out loss {retention.base_loss:.4f} base, {retention.tuned_loss:.4f} tuned, "
        f"{retention.artefact_loss:.4f} here"
    )
    if retention.share is None:
        return [
            Check(
                name="retention",
                ok=None,
                detail=f"the fine-tune gained nothing on these examples ({losses})",
            )
        ]
    around = (
        f" ({retention.interval[0]:.1%} to {retention.interval[1]:.1%})"
        if retention.interval
        else ""
    )
    made = [
        Check(
            name="retention",
            ok=retention.share >= retention.least,
            detail=f"{retention.share:.1%}{around} of the gain is kept, {retention.least:.0%} is "
            f"asked for; {losses}, KL to the tuned model {retention.kl:.2e}",
        )
    ]
    if alone:
        made.append(
            Check(
                name="strength of the adapter",
                ok=retention.kl <= _APART,
                detail=f"KL {retention.kl:.1e} to the merged model, at most {_APART:g}",
            )
        )
    return made
