"""Swaps of encodings after the allocation, decided by what the runtime measures on text nothing was fitted to.

Each try moves a group of costs (moves.py), allocates again within the same bytes, encodes what changed, and scores the
file window by window beside the best so far. It is kept when the divergence falls by more than its standard error over
the windows, and left early when they agree that it rises. What was found out lies in swaps.json, by what it depends on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kanna import __version__
from kanna._util.atomic import write_json
from kanna._util.progress import Progress, Silent
from kanna.calibration import statistics
from kanna.errors import PlanError
from kanna.evaluation.stats import MIN_WINDOWS, half_width
from kanna.model import Model
from kanna.optimization.kl_scorer import F64, Judge, Spare
from kanna.optimization.moves import first_moves, groups, moved
from kanna.optimization.rewrite import rewrite
from kanna.optimization.search import Found, fill
from kanna.plan.allocate import Choice
from kanna.runtimes.llamacpp import RUNTIME
from kanna.sources import Source

FILE = "swaps.json"
SCRATCH = ".swaps-"
SURE = 0.5
"""How much of the half width of the 95 % interval a gain must exceed: about one standard error."""
_STATES = 8
"""Budgets whose trials are remembered."""
_LIMIT = 8.0
"""No group is taken as more than so many times dearer or cheaper than predicted."""


@dataclass(slots=True, kw_only=True)
class State:
    """What is known so far, as it lies in swaps.json.

    Attributes:
        queue: Moves that are still to be tried, as [group, factor].
        factors: Of the best plan, by group.
        encodings: Of its matrices.
        scores: KL divergence of the best plan, by window of the trial text.
        start: The same of the plan that the search gave.
        proof: On the windows that decide nothing.
        seen: Hashes of the plans that were tried.
        gained: Whether this round kept any.
        tries: What the report tells of each.
    """

    key: str
    queue: list[tuple[str, float]]
    encodings: dict[str, str]
    factors: dict[str, float] = field(default_factory=dict[str, float])
    scores: list[float] = field(default_factory=list[float])
    start: list[float] = field(default_factory=list[float])
    proof: list[float] = field(default_factory=list[float])
    seen: list[str] = field(default_factory=list[str])
    gained: bool = False
    tries: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])


class Swaps:
    """The trials of one plan within one budget.

    only reported Raises nothing of its own; an interrupted run leaves the best so far in `artefact`
    and `plan`.

    Attributes:
        found: What the search gave, from `choices`.
        text: Windows that decide, and windows that are.
    """

    def __init__(
        self,
        source: Source,
        model: Model,
        choices: Sequence[Choice],
        found: Found,
        stats: Path,
        budget: int,
        folder: Path,
        text: Spare,
        threads: int | None,
    ) -> None:
        self._source, self._model, self._choices, self._stats = source, model, list(choices), stats
        self._budget, self._folder, self._text, self._threads = budget, folder, text, threads
        self._groups = groups([c.name for c in choices])
        costs = [[c.name, [[o.encoding, o.nbytes, o.cost] for o in c.options]] for c in choices]
        known = [
            __version__,
            RUNTIME.available().version,
            statistics.read(stats).sha256,
            budget,
            costs,
            text.trial,
        ]
        key = hashlib.sha256(json.dumps(known).encode()).hexdigest()
        self._states = _read(folder / FILE)
        fresh = State(key=key, queue=first_moves(self._groups), encodings=found.encodings)
        fresh.seen.append(_mark(found.encodings))
        self.state = _state(self._states.get(key), fresh)

    @property
    def encodings(self) -> dict[str, str]:
        """Those of the best plan known, of this run or an earlier one."""
        return self.state.encodings

    def predicted(self) -> float:
        """What the best plan was expected to cost before anything was moved."""
        costs = {c.name: {o.encoding: o.cost for o in c.options} for c in self._choices}
        return sum(costs[name][encoding] for name, encoding in self.state.encodings.items())

    def run(self, artefact: Path, plan: Path, tries: int, bar: Progress) -> None:
        """Try until nothing gains or `tries` were made.

        Args:
            artefact, plan: Of the best plan, then of a better one.
        """
        state = self.state
        if len(state.tries) >= tries or not state.queue:
            return
        if not state.proof and self._text.proof:
            with Judge(self._source, self._text.proof, self._folder, self._threads) as judge:
                judge.read(bar)
                state.proof = list(map(float, judge.kl(artefact, bar)))
        trial = self._folder / f"{SCRATCH}{artefact.name}"
        scratch = self._folder / f"{SCRATCH}plan" / plan.name  # its name is in the metadata
        scratch.parent.mkdir(exist_ok=True)
        try:
            with Judge(
                self._source, _mixed(self._text.trial), self._folder, self._threads
            ) as judge:
                judge.read(bar)
                if not state.scores:
                    state.scores = state.start = list(map(float, judge.kl(artefact, bar)))
                    self._save()
                bar.start("swaps", tries, "tries")
                bar.advance(len(state.tries))
                while len(state.tries) < tries and (move := self._next()) is not None:
                    if not self._try(move, judge, artefact, plan, trial, scratch):
                        continue
                    bar.advance(1, f"{move[0]}: {np.mean(state.scores):.5f} nats")
        finally:
            bar.finish()
            trial.unlink(missing_ok=True)
            scratch.unlink(missing_ok=True)
            with suppress(OSError):
                scratch.parent.rmdir()

    def _next(self) -> tuple[str, float] | None:
        """The next move; another round when the last one kept any, None when nothing gains any more."""
        state = self.state
        if not state.queue and state.gained:
            state.queue, state.gained = first_moves(self._groups), False
        return state.queue[0] if state.queue else None

    def _try(
        self,
        move: tuple[str, float],
        judge: Judge,
        artefact: Path,
        plan: Path,
        trial: Path,
        scratch: Path,
    ) -> bool:
        """One move; False when it gives no plan that was not tried before."""
        state, (group, factor) = self.state, move
        factors = state.factors | {group: state.factors.get(group, 1.0) * factor}
        state.queue = state.queue[1:]
        if not 1 / _LIMIT <= factors[group] <= _LIMIT:
            return False
        try:
            found = fill(
                self._source,
                moved(self._choices, self._groups, factors),
                self._stats,
                self._budget,
                scratch,
            )
        except PlanError:
            return False
        if _mark(found.encodings) in state.seen:
            return False
        state.seen.append(_mark(found.encodings))
        changed = sum(
            found.encodings[name] != encoding for name, encoding in state.encodings.items()
        )
        rewrite(
            self._source,
            self._model,
            scratch,
            self._stats,
            trial,
            before=artefact,
            threads=self._threads,
            progress=Silent(),
        )
        best = np.array(state.scores)
        scores = judge.kl(trial, Silent(), stop=lambda now: _worse(now, best))
        difference = scores - best[: len(scores)]
        half = half_width(difference)
        kept = (
            len(scores) == len(best)
            and half is not None
            and float(difference.mean()) < -SURE * half
        )
        state.tries.append(
            {
                "group": group,
                "factor": factor,
                "changed": changed,
                "windows": len(scores),
                "before": float(best[: len(scores)].mean()),
                "after": float(scores.mean()),
                "half": half,
                "kept": kept,
            }
        )
        if kept:
            state.scores, state.factors = list(map(float, scores)), factors
            state.encodings, state.gained = found.encodings, True
            # The way back leads nowhere, and one more step the same way may gain again.
            state.queue = [move, *(m for m in state.queue if m[0] != group)]
            trial.replace(artefact)
            scratch.replace(plan)
        self._save()
        return True

    def _save(self) -> None:
        state = self.state
        value = {name: getattr(state, name) for name in State.__slots__ if name != "key"}
        self._states.pop(state.key, None)
        self._states[state.key] = value
        kept = dict(list(self._states.items())[-_STATES:])
        write_json(self._folder / FILE, kept)


def able(text: Spare, notes: list[str]) -> bool:
    """Whether there is text to decide swaps and tuning on.

    If not, or only such as was used before, `notes` says so.
    """
    if len(text.trial) < MIN_WINDOWS:
        notes.append(
            "the calibration text is too short to decide on: neither swaps of encodings nor tuning were tried"
        )
        return False
    if text.fitted:
        notes.append(
            "no calibration text was left over: what followed the search was decided on the windows held out of the "
            "statistics"
        )
    return True


def _mixed(windows: Sequence[tuple[str, list[int]]]) -> list[tuple[str, list[int]]]:
    """Kinds of text in turn, so that the first windows speak for all of them."""
    kinds: dict[str, list[tuple[str, list[int]]]] = {}
    for kind, ids in windows:
        kinds.setdefault(kind, []).append((kind, ids))
    rows = list(kinds.values())
    return [
        row[turn]
        for turn in range(max(map(len, rows), default=0))
        for row in rows
        if turn < len(row)
    ]


def _worse(now: F64, best: F64) -> bool:
    """Whether the windows so far agree that a trial does not gain."""
    difference = now - best[: len(now)]
    half = half_width(difference)
    return len(now) >= MIN_WINDOWS and half is not None and float(difference.mean()) - half > 0


def _mark(encodings_: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(sorted(encodings_.items())).encode()).hexdigest()[:16]


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError):
        return {}


def _state(saved: Any, fresh: State) -> State:
    """The state of an earlier run, unless it is not what one would be."""
    try:
        found = State(key=fresh.key, **saved)
        found.queue = [(str(group), float(factor)) for group, factor in found.queue]
        return found
    except (KeyError, TypeError, ValueError):
        return fresh
