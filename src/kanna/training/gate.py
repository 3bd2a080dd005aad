"""The gate that a trained adapter passes: does llama.cpp see what was learned?

The adapter is read from the disk again and brought into llama.cpp (`gate_file`). What that says of
the held-out examples is set against what was measured while the adapter was trained, in another
library: a strength that is lost on the way, or a token that ends no turn, shows here.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kanna import families
from kanna._util import own_files
from kanna._util.progress import Progress
from kanna.checks import Check, gate_status
from kanna.errors import KannaError
from kanna.evaluation.divergence import F64
from kanna.runtimes.base import Engine
from kanna.runtimes.llamacpp import RUNTIME as LLAMA
from kanna.training.gate_file import GateFile
from kanna.training.held_answers import ROOM, HeldPrompt, answer
from kanna.training.run import TrainingRun
from kanna.training.tokens import UNLEARNED, ChatTokenizer, TokenizedExample, TokenizedPair
from kanna.verification import retention, tokens

_MOST_TOKENS, _FEWEST = 1 << 14, 8
"""Tokens of held-out records that are read, and records that are read even if they have more."""
_SAME = 2e-3
"""Nats per token by which libraries differ; a smaller loss of the gain is none."""
_ENDING = 3
"""Learned tokens at the end of an answer, one of which must end it in the runtime."""
NAMES = ("tokenizer", "chat template", "end of turn", "end of answers", "retention", "tool calls")
"""The checks, in their order; the last one where held-out prompts offer tools."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterGate:
    """What became of the checks.

    Attributes:
        preset: What the adapter was merged into, or the plan's file; "": it lay beside its base.
        checks: In the order they were made.
        share: (base − runtime) / (base − tuned) on the held-out records; None: nothing was gained,
            or it was not measured.
        interval: Its 95 % interval over the records; None for too few of them.
        base_loss: As it was measured before the first step, in nats per learned token; of pairs by
            how many nats per token the rejected answer is likelier.
        tuned_loss: As trained.
        runtime_loss: Of the file in llama.cpp; None: it was not measured.
        examples: Held-out records that were read.
        seconds: That it took.
    """

    preset: str
    checks: Sequence[Check]
    share: float | None = None
    interval: tuple[float, float] | None = None
    base_loss: float | None = None
    tuned_loss: float | None = None
    runtime_loss: float | None = None
    examples: int = 0
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**asdict(self), "status": gate_status(self.checks)}


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterCase:
    """An adapter that was trained, and what it is held to.

    Attributes:
        file: How it comes into llama.cpp.
        adapter: The adapter on the disk.
        held_out: Held-out records in tokens.
        run: What was measured of them.
        prompts: Held-out prompts with tools.
        calls: How many of them were answered by a valid call as trained; None: not asked.
        chats: Makes tokens of the prompts.
        scratch: A folder for the file, removed in the end.
        threads: Threads to use.
        progress: Where progress is reported.
    """

    file: GateFile
    adapter: Path
    held_out: Sequence[TokenizedExample | TokenizedPair]
    run: TrainingRun
    prompts: Sequence[HeldPrompt]
    calls: int | None
    chats: ChatTokenizer
    scratch: Path
    threads: int
    progress: Progress
    _begin: float = field(init=False, default_factory=time.perf_counter)

    def check(self) -> AdapterGate:
        """Make every check; what cannot be made here is said, and nothing is raised for it."""
        here = LLAMA.available()
        if not here.ok:
            why = f"{here.remark}: {here.how_to_install}"
            made = [Check(name=name, ok=None, detail=why) for name in self._names]
            return AdapterGate(preset=self.file.preset, checks=made)
        try:
            return self._checked()
        except KannaError as error:
            failed = Check(name="file", ok=False, detail=error.found)
            return AdapterGate(preset=self.file.preset, checks=[failed])
        finally:
            own_files.remove(self.scratch)

    @property
    def _names(self) -> Sequence[str]:
        return NAMES if self.prompts else NAMES[:-1]

    def _checked(self) -> AdapterGate:
        tuned = self.file.tuned(self.adapter)
        held = _within(self.held_out)
        longest = max(len(one.ids) for record in held for one in _sequences(record))
        asked = max((len(self._ids(one)) for one in self.prompts), default=0) + ROOM
        context = max(256, longest, asked if self.prompts else 0)
        with self.file.open(
            self.adapter,
            self.scratch,
            context=context,
            threads=self.threads,
            progress=self.progress,
        ) as engine:
            # A file that is run as it lies there carries its own keys, not those of a folder.
            model = families.load_model(self.file.source if self.file.beside else tuned)
            checks = [
                tokens.check_tokenizer(tuned, model, engine),
                tokens.check_template(tuned, model, engine),
                tokens.check_stop(tuned, model, engine),
                answers_end(held, engine, self.chats.most),
            ]
            measured = self._kept(held, engine)
            checks.append(_retained(measured))
            checks += self._called(engine)
        return AdapterGate(
            preset=self.file.preset,
            checks=checks,
            share=measured.share,
            interval=measured.interval,
            base_loss=measured.base,
            tuned_loss=measured.tuned,
            runtime_loss=measured.runtime,
            examples=len(held),
            seconds=time.perf_counter() - self._begin,
        )

    def _kept(self, held: Sequence[TokenizedExample | TokenizedPair], engine: Engine) -> _KeptGain:
        self.progress.start("gate", len(held), "examples")
        now: list[float] = []
        for record in held:
            now.append(_judged(record, engine))
            self.progress.advance(1)
        self.progress.finish()
        count = len(held)
        sums = np.array([self.run.base_each[:count], self.run.best_each[:count], now])
        pairs = isinstance(held[0], TokenizedPair)
        return _KeptGain.of(sums, sum(1 if pairs else one.learned for one in held), pairs=pairs)

    def _called(self, engine: Engine) -> list[Check]:
        """Whether prompts with tools are answered by calls as they were when it was trained."""
        if not self.prompts:
            return []
        self.progress.start("gate", len(self.prompts), "prompts")
        counted = answer(engine, self.prompts, self.chats, self.progress).calls
        self.progress.finish()
        return [calls_kept(counted.valid if counted else 0, len(self.prompts), self.calls)]

    def _ids(self, prompt: HeldPrompt) -> list[int]:
        return self.chats.tokenizer(prompt.text, add_special_tokens=True, verbose=False)[
            "input_ids"
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _KeptGain:
    """Losses in the mean, and the share of the gain that the file keeps."""

    base: float
    tuned: float
    runtime: float
    share: float | None
    interval: tuple[float, float] | None
    pairs: bool

    @classmethod
    def of(cls, sums: F64, count: int, *, pairs: bool) -> _KeptGain:
        base, tuned, runtime = (float(s) / count for s in sums.sum(axis=1))
        gain = base - tuned
        return cls(
            base=base,
            tuned=tuned,
            runtime=runtime,
            share=(base - runtime) / gain if gain > 0 else None,
            interval=retention.interval(sums) if gain > 0 else None,
            pairs=pairs,
        )


def _retained(kept: _KeptGain) -> Check:
    """The check of the held-out records."""
    name = NAMES[4]
    what = "nats per token for the rejected answer" if kept.pairs else "held-out loss"
    losses = (
        f"{what}: {kept.base:.4f} base, {kept.tuned:.4f} as trained, {kept.runtime:.4f} in "
        "llama.cpp"
    )
    if kept.share is None:
        same = abs(kept.runtime - kept.tuned) <= _SAME
        return Check(
            name=name, ok=None if same else False, detail=f"nothing was gained to keep; {losses}"
        )
    around = f" ({kept.interval[0]:.1%} to {kept.interval[1]:.1%})" if kept.interval else ""
    ok = kept.share >= retention.LEAST or kept.runtime - kept.tuned <= _SAME
    detail = f"{kept.share:.1%}{around} of the gain is kept, {retention.LEAST:.0%} is asked for"
    return Check(name=name, ok=ok, detail=f"{detail}; {losses}")


def calls_kept(valid: int, asked: int, trained: int | None) -> Check:
    """The check of answers to prompts with tools.

    Args:
        valid: Answers of the file that call a tool with arguments that it takes.
        asked: Prompts.
        trained: Such answers as trained; None: it was not asked.
    """
    detail = f"{valid} of {asked} answers call a tool with arguments that it takes"
    if trained is None:
        whole = True if valid == asked else None
        return Check(name=NAMES[-1], ok=whole, detail=f"{detail}; as trained: not asked")
    # One answer of several may turn by a rounding; more is no chance.
    least = trained - 1 if trained > 1 else trained
    return Check(name=NAMES[-1], ok=valid >= least, detail=f"{detail}, as trained {trained}")


def _within(
    records: Sequence[TokenizedExample | TokenizedPair],
) -> Sequence[TokenizedExample | TokenizedPair]:
    """The first records, as many as are read in a bounded time."""
    read = np.cumsum([one.read for one in records])
    return records[: max(_FEWEST, int(np.searchsorted(read, _MOST_TOKENS, side="right")))]


def _sequences(record: TokenizedExample | TokenizedPair) -> Sequence[TokenizedExample]:
    """What a model reads of a record."""
    if isinstance(record, TokenizedPair):
        return [record.example(record.chosen), record.example(record.rejected)]
    return [record]


def _judged(record: TokenizedExample | TokenizedPair, engine: Engine) -> float:
    """What the objective judges of a record, in the runtime; see `HeldOutFigures.each`."""
    nats = [retention.learned_nats(engine, one) for one in _sequences(record)]
    if isinstance(record, TokenizedPair):
        return float(nats[0].mean() - nats[1].mean())
    return float(nats[0].sum())


def answers_end(
    held: Sequence[TokenizedExample | TokenizedPair], engine: Engine, most: int
) -> Check:
    """Whether what answers end with, as it was learned, ends a generation in the runtime.

    Args:
        held: Held-out records.
        engine: The runtime.
        most: Tokens that an example was cut to: such answers have no end.
    """
    whole = [_sequences(record)[0] for record in held]
    whole = [one for one in whole if len(one.ids) < most]
    endings = [[t for t in one.labels[1:] if t != UNLEARNED][-_ENDING:] for one in whole]
    unended = [ending for ending in endings if not any(engine.eog(t) for t in ending)]
    if not whole:
        return Check(name=NAMES[3], ok=None, detail="every held-out answer is cut")
    if unended:
        shown = engine.detokenize(unended[0], special=True)
        return Check(
            name=NAMES[3],
            ok=False,
            detail=f"{len(unended)} of {len(whole)} answers end with tokens that end nothing in "
            f"llama.cpp: {shown!r}",
        )
    return Check(name=NAMES[3], ok=True, detail=f"{len(whole)} answers end where llama.cpp stops")
