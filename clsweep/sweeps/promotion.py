"""Successive halving with promotion: which trials go on at a rung at once, and which stopped ones do so later.

A rung is a step at which a trial has reported a value: the k-th context, counted across a trial's seeds. Of the points
that have reached a rung so far, the best 1/eta go on (eta is `reduction_factor`; at least one does). A trial that isn't
among them is stopped, and goes on as another trial once it is among them, before a new point is tried: asynchronous
successive halving (Li et al., 2020, "A System for Massively Parallel Hyperparameter Tuning", algorithm 2). Hyperband
(Li et al., 2018) has several brackets of points, which differ in their lowest rung and are compared among themselves.

All of it is read from what trials have reported, by `Promotion` as the study's pruner and by `Ledger.claim`; nothing
here trains. So a sweep can be replayed against a table of learning curves by

    ledger.study.pruner = pruner("hyperband", None, steps=10)
    while (trial := ledger.claim()) is not None:
        for step, value in enumerate(table(trial.params), start=1):
            trial.report(value, step)
            if step < 10 and trial.should_prune():  # never at a rung that the point was promoted from
                ledger.prune(trial, "stopped")
                break
        else:
            ledger.complete(trial, value)

where a trial with the attribute `marks.CONTINUES` would train only the steps after the last one that the trial of that
number has reported.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from optuna.pruners import BasePruner
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from clsweep.errors import InputError
from clsweep.space import Point, Value
from clsweep.sweeps.continued import current
from clsweep.sweeps.marks import CONTINUES, ENDED, INTERRUPTED, LOST, VOID

_LOWEST = 2  # the first context is the same for all trials of a seed
_GOLDEN = (math.sqrt(5) - 1) / 2

_Key = tuple[tuple[str, Value], ...]


@dataclass
class _Curve:
    """What is known of a point.

    Attributes:
        number: of its first trial, which decides its bracket.
        values: reported, by step.
    """

    number: int
    values: dict[int, float] = field(default_factory=dict)


class Promotion(BasePruner):
    """Stops trials at rungs, and says which of them are to go on.

    Args:
        rungs: the steps, ascending.
        reduction_factor: one in this many points at a rung goes on.
        brackets: how many points each bracket gets in proportion to the others, as weights; the k-th bracket has no
            rungs below the k-th.

    Attributes:
        rungs: see above.
    """

    def __init__(self, rungs: Sequence[int], reduction_factor: int, brackets: Sequence[int]) -> None:
        self.rungs = tuple(rungs)
        self._reduction_factor = reduction_factor
        self._brackets = tuple(brackets)

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether the trial should stop; see `optuna.pruners.BasePruner`."""
        step = trial.last_step
        if step is None:
            return False
        trials = [trial if one.number == trial.number else one for one in study.get_trials(deepcopy=False)]
        stopped = (one for one in trials if one.state == TrialState.PRUNED and one.params == trial.params)
        if any((one.last_step or 0) >= step for one in stopped):  # and promoted from there
            return False
        curves, key = _curves(trials), _key(trial.params)
        bracket = self._bracket(curves[key].number)
        return step in self.rungs[bracket:] and key not in self._top(curves, bracket, step)

    def to_continue(self, trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
        """The stopped trials whose points are to go on, the most urgent first.

        Those that have been promoted, but whose continuation was lost or interrupted; then those that are among the
        best at their rung by now, the highest rung first.

        Args:
            trials: all of the study's.
        """
        trials = list(trials)
        curves = _curves(trials)
        stopped = [trial for trial in current(trials) if trial.state == TrialState.PRUNED]
        begun = {
            trial.user_attrs[CONTINUES]
            for trial in trials
            if CONTINUES in trial.user_attrs and trial.user_attrs.get(ENDED) in (INTERRUPTED, LOST)
        }
        again = [trial for trial in stopped if trial.number in begun]
        places = {trial.number: self._place(trial, curves) for trial in stopped if trial.number not in begun}
        top: dict[tuple[int, int], set[_Key]] = {
            place: self._top(curves, *place) for place in {one for one in places.values() if one is not None}
        }
        promotable = [
            (-place[1], -_or_lowest(curves[_key(trial.params)].values[place[1]]), trial.number, trial)
            for trial in stopped
            if (place := places.get(trial.number)) is not None and _key(trial.params) in top[place]
        ]
        return again + [trial for *_, trial in sorted(promotable)]

    def left_behind(self, trials: Iterable[FrozenTrial], n_trials: int) -> list[FrozenTrial]:
        """The stopped trials that won't go on any more, since too many are better at their rung.

        Args:
            trials: all of the study's.
            n_trials: how many points are to be tried in all.
        """
        trials = list(trials)
        curves = _curves(trials)
        behind = []
        for trial in current(trials):
            place = self._place(trial, curves) if trial.state == TrialState.PRUNED else None
            if place is not None and _key(trial.params) not in self._ranked(curves, *place)[: self._share(n_trials)]:
                behind.append(trial)
        return behind

    def most_waiting(self, n_trials: int) -> int:
        """How many stopped trials may be waiting to go on at the same time; see `left_behind`."""
        rungs = sum(len(self.rungs[bracket:]) for bracket in range(len(self._brackets)))
        return min(n_trials, rungs * self._share(n_trials))

    def _place(self, trial: FrozenTrial, curves: dict[_Key, _Curve]) -> tuple[int, int] | None:
        """A stopped trial's bracket and rung; None where earlier rungs were others, and it ended below these."""
        curve = curves[_key(trial.params)]
        bracket = self._bracket(curve.number)
        reached = [rung for rung in self.rungs[bracket:] if rung in curve.values]
        return (bracket, max(reached)) if reached else None

    def _top(self, curves: dict[_Key, _Curve], bracket: int, rung: int) -> set[_Key]:
        """The points that go on from a rung, as things stand."""
        ranked = self._ranked(curves, bracket, rung)
        return set(ranked[: self._share(len(ranked))])

    def _share(self, points: int) -> int:
        """How many of the points at a rung go on."""
        return max(1, points // self._reduction_factor)

    def _ranked(self, curves: dict[_Key, _Curve], bracket: int, rung: int) -> list[_Key]:
        """The points at a rung, the best first."""
        there = {
            key: curve
            for key, curve in curves.items()
            if rung in curve.values and self._bracket(curve.number) == bracket
        }
        return sorted(there, key=lambda key: (-_or_lowest(there[key].values[rung]), there[key].number))

    def _bracket(self, number: int) -> int:
        """A point's bracket, by the number of its first trial: in any stretch of numbers each has its share."""
        share = (number * _GOLDEN) % 1 * sum(self._brackets)
        for bracket, weight in enumerate(self._brackets):
            share -= weight
            if share < 0:
                return bracket
        return len(self._brackets) - 1

    def shown(self, step: int) -> str:
        """A rung as it is told."""
        return f"rung {self.rungs.index(step) + 1} of {len(self.rungs)}"


def _curves(trials: Iterable[FrozenTrial]) -> dict[_Key, _Curve]:
    """What is known of each point that was begun, however its trials ended."""
    curves: dict[_Key, _Curve] = {}
    for trial in trials:
        if trial.state != TrialState.WAITING and trial.user_attrs.get(ENDED) != VOID:
            curve = curves.setdefault(_key(trial.params), _Curve(trial.number))
            curve.values |= trial.intermediate_values
    return curves


def _key(point: Point) -> _Key:
    return tuple(sorted(point.items()))


def _or_lowest(value: float) -> float:
    return -math.inf if math.isnan(value) else value


@dataclass(frozen=True)
class SuccessiveHalving:
    """Its options.

    Attributes:
        min_resource: the lowest rung, in contexts.
        reduction_factor: one in this many points at a rung goes on; each rung is this many times the one before.
    """

    min_resource: int = _LOWEST
    reduction_factor: int = 3

    def __post_init__(self) -> None:
        """Check.

        Raises:
            ValueError: a value is out of range.
        """
        for name, value, least in (
            ("min_resource", self.min_resource, 1),
            ("reduction_factor", self.reduction_factor, 2),
        ):
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name}={value} is no integer of {least} or more")

    def promotion(self, name: str, steps: int) -> Promotion:
        """The pruner of a study.

        Args:
            name: `search.pruner`.
            steps: how many contexts a trial has, counted over its seeds.

        Raises:
            InputError: there is no rung before the last context, or one at the first.
        """
        if steps <= _LOWEST:
            raise InputError(
                f"search.pruner={name}: stops trials after their second context at the earliest, and these have "
                f"{steps}; expected another pruner, or null."
            )
        if not _LOWEST <= self.min_resource < steps:
            between = str(_LOWEST) if steps == _LOWEST + 1 else f"{_LOWEST} to {steps - 1}"
            raise InputError(
                f"search.pruner_options: min_resource={self.min_resource}: is no context after the first, which is the "
                f"same for all trials, and before the last; expected {between}."
            )
        rungs = [self.min_resource]
        while (rung := rungs[-1] * self.reduction_factor) < steps:
            rungs.append(rung)
        return Promotion(rungs, self.reduction_factor, self._weights(len(rungs)))

    def _weights(self, rungs: int) -> list[int]:
        """How many points each bracket gets in proportion to the others; `rungs` is the number of rungs."""
        return [1]


class Hyperband(SuccessiveHalving):
    """Several brackets: one with all rungs, one without the lowest, ... and one whose trials are never stopped."""

    def _weights(self, rungs: int) -> list[int]:
        """As many as Hyperband begins with in each, for the same time (Li et al., 2018, algorithm 1)."""
        eta = self.reduction_factor
        return [math.ceil((rungs + 1) / (left + 1) * eta**left) for left in range(rungs, -1, -1)]
