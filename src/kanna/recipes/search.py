"""A search over variables of a recipe: Optuna chooses the values, every trial is a run.

Trials share a folder: a step that no searched variable reaches runs once. The study is a SQLite
file in it, so that a search that was ended goes on.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, cast

from kanna._util import extras
from kanna._util.nearest import nearest
from kanna.errors import MissingError
from kanna.recipes import expressions, keys
from kanna.recipes.expressions import Condition, ExpressionError, Operand
from kanna.recipes.graph import AxisValue, RecipeGraph
from kanna.recipes.loading import LoadedRecipe
from kanna.recipes.problems import Problems, RecipeLine
from kanna.recipes.records import BLOCKED, DONE, FAILED, KEPT, SKIPPED, StepState, TrialRecord
from kanna.recipes.text import RangeText, SearchText

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

EXTRA = "search"
STUDY = "study.db"
_STEPS, _STATE = "steps", "state"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialOutcome:
    """What a trial came to.

    Attributes:
        states: Of its steps, by id.
        graph: The recipe with its values.
    """

    states: Mapping[str, StepState]
    graph: RecipeGraph

    def figure(self, name: str) -> Operand:
        """A figure of a step, as a goal names it; None where it was not measured."""
        step, _, figure = name.partition(".")
        for one in self.graph.of_step(step, {}):
            if self.states[one.id].state in (DONE, KEPT):
                return self.states[one.id].figures.get(figure)
        return None


def corners(search: SearchText) -> list[dict[str, AxisValue]]:
    """Combinations that have every listed value and every limit at least once."""
    values = {
        name: [*given] if isinstance(given, list) else [given.low, given.high]
        for name, given in search.space.items()
    }
    first = {name: listed[0] for name, listed in values.items() if listed}
    return [first | {name: value} for name, listed in values.items() for value in listed] or [first]


def check(recipe: LoadedRecipe, graph: RecipeGraph, problems: Problems) -> None:
    """Note what is wrong with the search of a recipe.

    Args:
        recipe: The recipe, which has one.
        graph: Of one of its trials.
        problems: Where to note it.
    """
    search, document = recipe.search, recipe.documents[-1]
    assert search is not None
    for name, given in search.space.items():
        place = document.place("search", "space", name)
        if name not in recipe.variables:
            hint = nearest(name, recipe.variables)
            problems.add(place, f"there is no variable {name}{hint}", expected="one of variables")
        if isinstance(given, RangeText) and not given.low < given.high:
            problems.add(place, f"{name}: {given.low} is not below {given.high}")
        if isinstance(given, RangeText) and given.log and (given.low <= 0 or given.step):
            problems.add(place, f"{name}: log needs low above 0, and no step")
        if isinstance(given, list) and not given:
            problems.add(place, f"{name}: no values")
    if not search.goals or not search.space:
        problems.add(document.place("search"), "a search needs a space and goals")
    for name in search.goals:
        _check_figure(name, graph, document.place("search", "goals", name), problems)
    for i, text in enumerate(search.constraints):
        place = document.place("search", "constraints", i)
        try:
            for name in expressions.parse(text).names:
                if "." in name or name not in recipe.variables:
                    _check_figure(name, graph, place, problems)
        except ExpressionError as error:
            problems.add(place, f"{text}: {error}")


def _check_figure(name: str, graph: RecipeGraph, place: RecipeLine, problems: Problems) -> None:
    step, _, figure = name.partition(".")
    if step not in graph.steps:
        problems.add(place, f"there is no step {step}{nearest(step, graph.steps)}")
        return
    figures = graph.steps[step].verb.figures
    if figure not in figures:
        problems.add(place, f"{step} measures no {figure}{nearest(figure, figures)}")
    if len(graph.of_step(step, {})) > 1:
        problems.add(place, f"{name} is of several: {step} has a matrix of its own")


class Study:
    """The trials of a search, those of earlier runs included.

    Args:
        recipe: The recipe, which has a search.
        folder: Of the run.
        content: Of everything that the trials read and do, but for the searched values.

    Raises:
        MissingError: Optuna is not installed.
    """

    def __init__(self, recipe: LoadedRecipe, folder: Path, content: str) -> None:
        if extras.missing(EXTRA):
            raise MissingError("a search needs Optuna", todo=extras.command(EXTRA))
        import optuna

        assert recipe.search is not None
        self.search = recipe.search
        self._constraints: list[Condition] = [
            expressions.parse(text) for text in self.search.constraints
        ]
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        about = self.search.model_dump(exclude={"trials"})
        self._study = optuna.create_study(
            storage=f"sqlite:///{folder / STUDY}",
            study_name=keys.digest([about, content]),
            directions=list(self.search.goals.values()),
            load_if_exists=True,
        )
        for trial in self._of_state("RUNNING"):  # of a run that was ended
            self._study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
            self._study.enqueue_trial(trial.params, skip_if_exists=False)
        ended = len(self._of_state("COMPLETE", "PRUNED"))
        self._study.sampler = self._sampler(ended)
        self.left = max(0, self._size() - ended)

    def _of_state(self, *names: str) -> list[FrozenTrial]:
        return [t for t in self._study.get_trials(deepcopy=False) if t.state.name in names]

    def _size(self) -> int:
        """How many trials there are: no more than combinations, where these can be counted."""
        lists = [given for given in self.search.space.values() if isinstance(given, list)]
        if len(lists) < len(self.search.space):
            return self.search.trials
        return min(self.search.trials, prod(len(set(map(str, given))) for given in lists))

    def _sampler(self, ended: int) -> optuna.samplers.BaseSampler:
        from optuna import samplers

        # A study that goes on must not begin with the values that it began with.
        return samplers.TPESampler(
            seed=self.search.seed + ended,
            n_startup_trials=max(5, min(10, self.search.trials // 2)),
        )

    def run(self, perform: Callable[[int, dict[str, AxisValue]], TrialOutcome]) -> None:
        """Try what is left to be tried.

        Args:
            perform: Runs the recipe with the values of a trial, which is numbered from 1.
        """
        from optuna.trial import TrialState

        while self.left:
            trial = self._study.ask()
            values = {name: self._value(trial, name) for name in self.search.space}
            if values in [t.params for t in self._of_state("COMPLETE", "PRUNED")]:
                untried = self._untried(trial.number)
                if untried is not None:  # the sampler would measure again what it knows
                    self._study.tell(trial, state=TrialState.FAIL)
                    self._study.enqueue_trial(untried)
                    continue
            outcome = perform(len(self._of_state("COMPLETE", "PRUNED")) + 1, values)
            trial.set_user_attr(_STEPS, list(outcome.states))
            figures = [outcome.figure(name) for name in self.search.goals]
            numbers = [float(f) for f in figures if isinstance(f, int | float)]
            failed = {FAILED, BLOCKED} & {s.state for s in outcome.states.values()}
            self.left -= 1
            if len(numbers) < len(figures):
                trial.set_user_attr(_STATE, FAILED if failed else SKIPPED)
                self._study.tell(trial, state=TrialState.PRUNED)
                continue
            trial.set_user_attr(_STATE, FAILED if failed else DONE)
            for name, violation in self._violated(outcome, values).items():
                trial.set_constraint(name, violation)
            self._study.tell(trial, numbers)

    def _value(self, trial: optuna.Trial, name: str) -> AxisValue:
        given = self.search.space[name]
        if isinstance(given, list):
            return cast(AxisValue, trial.suggest_categorical(name, given))
        low, high, step = given.low, given.high, given.step
        if isinstance(low, int) and isinstance(high, int) and isinstance(step, int | None):
            return trial.suggest_int(name, low, high, step=step or 1, log=given.log)
        return trial.suggest_float(name, low, high, step=step, log=given.log)

    def _untried(self, number: int) -> dict[str, AxisValue] | None:
        """A combination that was not tried, of a space of lists; None where there is none."""
        lists = {n: v for n, v in self.search.space.items() if isinstance(v, list)}
        if len(lists) < len(self.search.space):
            return None
        tried = [t.params for t in self._of_state("COMPLETE", "PRUNED")]
        combinations = [dict(zip(lists, one, strict=True)) for one in product(*lists.values())]
        left = [one for one in combinations if one not in tried]
        return random.Random(self.search.seed + number).choice(left) if left else None

    def _violated(self, outcome: TrialOutcome, values: Mapping[str, AxisValue]) -> dict[str, float]:
        """For every constraint, 0 where it is met and 1 where it is not."""
        violated: dict[str, float] = {}
        for condition in self._constraints:
            known = {
                name: outcome.figure(name) if "." in name else values.get(name)
                for name in condition.names
            }
            try:
                violated[condition.text] = 0.0 if condition.holds(known) else 1.0
            except ExpressionError:
                violated[condition.text] = 1.0
        return violated

    def records(self) -> list[TrialRecord]:
        """Every trial that ended, the best ones marked."""
        listed = [
            TrialRecord(
                number=number,
                values=dict(trial.params),
                state=str(trial.user_attrs.get(_STATE, DONE)),
                goals=dict(zip(self.search.goals, trial.values or (), strict=False)),
                feasible=not any(value > 0 for value in trial.constraints.values()),
                steps=list(trial.user_attrs.get(_STEPS, ())),
            )
            for number, trial in enumerate(self._of_state("COMPLETE", "PRUNED"), 1)
        ]
        able = [one for one in listed if one.state == DONE and one.feasible]
        for one in able:
            one.best = not any(self._better(other, one) for other in able)
        return listed

    def _better(self, one: TrialRecord, other: TrialRecord) -> bool:
        """Whether one is at least as good in every goal, and better in one."""
        pairs: list[tuple[float, float]] = []
        for name, direction in self.search.goals.items():
            sign = 1.0 if direction == "minimize" else -1.0
            a, b = one.goals[name], other.goals[name]
            assert isinstance(a, int | float) and isinstance(b, int | float)
            pairs.append((sign * a, sign * b))
        return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)

    def importance(self) -> dict[str, float]:
        """How much of the first goal each variable decides; {} for too few trials to say."""
        from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

        if len(self._of_state("COMPLETE")) < 2 * len(self.search.space) + 2:
            return {}
        direction = next(iter(self.search.goals.values()))
        sign = 1.0 if direction == "minimize" else -1.0

        def target(trial: FrozenTrial) -> float:
            return sign * trial.values[0]

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it says that less is better
                return get_param_importances(
                    self._study, evaluator=PedAnovaImportanceEvaluator(), target=target
                )
        except (ValueError, RuntimeError):  # no variable has two values
            return {}
