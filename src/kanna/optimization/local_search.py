"""Other plans of the same size, decided by what the runtime measures on text nothing was fitted to.

Each trial moves a group of costs (moves.py), allocates again within the same bytes, encodes what
changed, and scores the file window by window against the best so far. It is kept when the
divergence falls and no kind of text loses (acceptance.py), and left early when the windows agree
that it rises. The state lies in swaps.json, keyed by what it depends on.
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
from kanna._util.progress import Silent
from kanna.calibration import statistics
from kanna.errors import PlanError
from kanna.evaluation.stats import half_width
from kanna.methods import device as devices
from kanna.optimization.acceptance import judge, log_ratios
from kanna.optimization.adapters.base import Adapter
from kanna.optimization.kl_scorer import F64, HeldOutWindows, KLScorer, Window
from kanna.optimization.moves import first_moves, groups, moved
from kanna.optimization.search import PlannedArtefact, search
from kanna.plan.allocate import Choice

FILE = "swaps.json"
SCRATCH = ".swaps-"
KEPT = ".kept-swap-"
_STATES = 8
"""Budgets whose trials are remembered."""
_LIMIT = 8.0
"""No group is taken as more than so many times dearer or cheaper than predicted."""


@dataclass(slots=True, kw_only=True)
class SearchState:
    """What a local search knows so far, as it lies in swaps.json.

    Attributes:
        queue: Moves that are still to be tried, as (group, factor).
        factors: Of the best plan, by group.
        encodings: Of its matrices.
        scores: KL divergence of the best plan, by window of the trial text.
        start: The same of the plan that the allocation gave.
        proof: The same on the windows that decide nothing.
        seen: Hashes of the plans that were tried.
        gained: Whether this round kept any.
        tries: What the report shows of each trial.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Paths:
    """The best artefact and its plan, and those of a trial."""

    artefact: Path
    plan: Path
    trial: Path
    trial_plan: Path


def remove_kept(folder: Path) -> None:
    """Remove trials that a run was ended over and that no state counts as the best.

    Args:
        folder: Where the best artefact lies.
    """
    for path in folder.glob(f"{KEPT}*"):
        path.unlink(missing_ok=True)


class LocalSearch:
    """The trials of one plan within one budget.

    An interrupted run leaves the best artefact and plan so far.
    """

    def __init__(
        self,
        adapter: Adapter,
        choices: Sequence[Choice],
        planned: PlannedArtefact,
        budget: int,
        windows: HeldOutWindows,
    ) -> None:
        """Read the state of an earlier run, if there is one.

        Args:
            adapter: The format, with a scorer.
            choices: What the allocation chose from.
            planned: Its result.
            budget: Bytes that the artefact may have.
            windows: Trial windows decide, proof windows are only reported.
        """
        self._adapter, self._choices = adapter, list(choices)
        self._budget, self._windows = budget, windows
        self._groups = groups([c.name for c in choices])
        self._file = adapter.file(FILE)
        costs = [[c.name, [[o.encoding, o.nbytes, o.cost] for o in c.options]] for c in choices]
        inputs = [
            __version__,
            adapter.runtime_version,
            statistics.read(adapter.workspace.calibrated).sha256,
            budget,
            costs,
            windows.trial,
        ]
        if adapter.seconds is not None:
            inputs += [adapter.seconds, [[o.seconds for o in c.options] for c in choices]]
        device = devices.pick(adapter.workspace.context.device)
        if device != devices.CPU:  # whose files end in other bits
            inputs.append(device)
        key = hashlib.sha256(json.dumps(inputs).encode()).hexdigest()
        self._states = _read(self._file)
        fresh = SearchState(key=key, queue=first_moves(self._groups), encodings=planned.encodings)
        fresh.seen.append(_hash(planned.encodings))
        self.state = _state(self._states.get(key), fresh)

    @property
    def encodings(self) -> dict[str, str]:
        """Encodings of the best plan known, of this run or an earlier one."""
        return self.state.encodings

    @property
    def kept(self) -> int:
        """How many trials gained."""
        return sum(trial["kept"] for trial in self.state.tries)

    def finished(self, tries: int) -> bool:
        """Whether there is nothing to try any more.

        Args:
            tries: Trials at most, those of earlier runs counted.
        """
        state = self.state  # a gain asks for one more round
        return len(state.tries) >= tries or not (state.queue or state.gained)

    def predicted(self) -> float:
        """Nats that the best plan was expected to cost before any cost was moved."""
        costs = {c.name: {o.encoding: o.cost for o in c.options} for c in self._choices}
        return sum(costs[name][encoding] for name, encoding in self.state.encodings.items())

    def take_up(self, artefact: Path) -> None:
        """Let the best trial that the state knows take its place, where a run was ended over that.

        Args:
            artefact: That of the best plan, which may still be the one before.
        """
        with suppress(FileNotFoundError):
            self._kept_trial(artefact).replace(artefact)

    def _kept_trial(self, artefact: Path) -> Path:
        """The name of a trial that gained, until it takes its place: no other state has it."""
        mark = hashlib.sha256(f"{self.state.key} {_hash(self.state.encodings)}".encode())
        return artefact.with_name(f"{KEPT}{mark.hexdigest()[:16]}-{artefact.name}")

    def run(self, artefact: Path, plan: Path, tries: int) -> None:
        """Try until nothing gains or `tries` were made.

        Args:
            artefact: That of the best plan; a better one takes its place.
            plan: The plan file, likewise.
            tries: Trials at most, those of earlier runs counted.
        """
        state = self.state
        if self.finished(tries):
            return
        if not state.proof and self._windows.proof:
            with self._scorer(self._windows.proof) as scorer:
                state.proof = list(map(float, scorer.kl(artefact)))
        folder = artefact.parent
        paths = _Paths(
            artefact=artefact,
            plan=plan,
            trial=folder / f"{SCRATCH}{artefact.name}",
            trial_plan=folder / f"{SCRATCH}plan" / plan.name,  # its name is in the metadata
        )
        paths.trial_plan.parent.mkdir(exist_ok=True)
        try:
            with self._scorer(_alternating(self._windows.trial)) as scorer:
                self._run(scorer, paths, tries)
        finally:
            self._adapter.workspace.context.progress.finish()
            self._settle(paths)
            paths.trial.unlink(missing_ok=True)
            paths.trial_plan.unlink(missing_ok=True)
            with suppress(OSError):
                paths.trial_plan.parent.rmdir()

    def _scorer(self, windows: Sequence[Window]) -> KLScorer:
        scorer = self._adapter.scorer(windows)
        assert scorer is not None, "the format has no scorer"
        return scorer

    def _run(self, scorer: KLScorer, paths: _Paths, tries: int) -> None:
        state, progress = self.state, self._adapter.workspace.context.progress
        scorer.read()
        if not state.scores:
            state.scores = state.start = list(map(float, scorer.kl(paths.artefact)))
            self._save()
        progress.start("swaps", tries, "tries")
        progress.advance(len(state.tries))
        while len(state.tries) < tries and (move := self._next()) is not None:
            if self._try(move, scorer, paths):
                progress.advance(1, f"{move[0]}: {np.mean(state.scores):.5f} nats")
        self._save()  # moves that gave no plan, too: a later run sees that nothing is left

    def _next(self) -> tuple[str, float] | None:
        """The next move; another round when the last one gained, None when nothing gains."""
        state = self.state
        if not state.queue and state.gained:
            state.queue, state.gained = first_moves(self._groups), False
        return state.queue[0] if state.queue else None

    def _try(self, move: tuple[str, float], scorer: KLScorer, paths: _Paths) -> bool:
        """One move; False when it gives no plan that was not tried before."""
        state, (group, factor) = self.state, move
        factors = state.factors | {group: state.factors.get(group, 1.0) * factor}
        state.queue = state.queue[1:]
        if not 1 / _LIMIT <= factors[group] <= _LIMIT:
            return False
        choices = moved(self._choices, self._groups, factors)
        try:
            planned = search(self._adapter, choices, self._budget, paths.trial_plan)
        except PlanError:
            return False
        if (mark := _hash(planned.encodings)) in state.seen:
            return False
        state.seen.append(mark)
        changed = sum(
            planned.encodings[name] != encoding for name, encoding in state.encodings.items()
        )
        self._adapter.rewrite(paths.trial_plan, paths.trial, paths.artefact)
        best = np.array(state.scores)
        scores = scorer.kl(paths.trial, progress=Silent(), stop=lambda now: _worse(now, best))
        verdict = judge(scorer.windows[: len(scores)], best[: len(scores)], scores)
        gains = len(scores) == len(best) and verdict.kept
        state.tries.append(
            {
                "group": group,
                "factor": factor,
                "changed": changed,
                "windows": len(scores),
                "before": verdict.mean.before,
                "after": verdict.mean.after,
                "half": verdict.mean.half,
                "worse": verdict.worse,
                "kept": gains,
            }
        )
        if gains:
            self._keep(move, planned, scores, factors, paths)
        else:
            self._save()
        return True

    def _keep(
        self,
        move: tuple[str, float],
        planned: PlannedArtefact,
        scores: F64,
        factors: dict[str, float],
        paths: _Paths,
    ) -> None:
        """Make a trial the best so far.

        Its file first gets a name that only the new state looks for: whenever the run is ended,
        the state and the file that it has the next run take up belong together.
        """
        state = self.state
        state.scores, state.factors = list(map(float, scores)), factors
        state.encodings, state.gained = planned.encodings, True
        # The way back leads nowhere, and one more step the same way may gain again.
        state.queue = [move, *(m for m in state.queue if m[0] != move[0])]
        paths.trial.replace(self._kept_trial(paths.artefact))
        self._settle(paths)

    def _settle(self, paths: _Paths) -> None:
        """Save that a trial is the best so far, then give it its place; nothing without one."""
        if not self._kept_trial(paths.artefact).exists():
            return
        self._save()
        with suppress(FileNotFoundError):  # where Ctrl-C came behind it
            paths.trial_plan.replace(paths.plan)
        self.take_up(paths.artefact)

    def _save(self) -> None:
        state = self.state
        value = {name: getattr(state, name) for name in SearchState.__slots__ if name != "key"}
        self._states.pop(state.key, None)
        self._states[state.key] = value
        write_json(self._file, dict(list(self._states.items())[-_STATES:]))


def _alternating(windows: Sequence[Window]) -> list[Window]:
    """Kinds of text in turn, so that the first windows speak for all of them."""
    kinds: dict[str, list[Window]] = {}
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
    ratios = log_ratios(best[: len(now)], now)
    half = half_width(ratios)
    return half is not None and float(ratios.mean()) - half > 0


def _hash(encodings: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(sorted(encodings.items())).encode()).hexdigest()[:16]


def _read(path: Path) -> dict[str, Any]:
    try:
        states = json.loads(path.read_text(encoding="utf-8"))
        return states if isinstance(states, dict) else {}
    except (OSError, ValueError):
        return {}


def _state(saved: Any, fresh: SearchState) -> SearchState:
    """The state of an earlier run, unless it does not have the form of one."""
    try:
        state = SearchState(key=fresh.key, **saved)
        state.queue = [(str(group), float(factor)) for group, factor in state.queue]
        return state
    except (KeyError, TypeError, ValueError):
        return fresh
