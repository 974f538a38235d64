"""Trials that go on where an earlier trial of the same point was stopped: of each point, which one speaks for it."""

from __future__ import annotations

import copy
from collections.abc import Container, Iterable, Sequence
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from clsweep.sweeps.marks import CONTINUES, ENDED, FAILED

_HAS_ENDED = (TrialState.COMPLETE, TrialState.PRUNED)


def current(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """The trials without those whose point has gone on as another trial, running or ended: each point counts once."""
    trials = list(trials)
    before = continued(trials)
    return [trial for trial in trials if trial.number not in before]


def continued(trials: Iterable[FrozenTrial]) -> dict[int, FrozenTrial]:
    """The trial that each stopped one goes on as, or has gone on as, by the stopped one's number.

    A lost or interrupted one doesn't count: the stopped trial is to go on as yet another.
    """
    return {one.user_attrs[CONTINUES]: one for one in trials if CONTINUES in one.user_attrs and _goes_on(one)}


def _goes_on(trial: FrozenTrial) -> bool:
    return trial.state == TrialState.RUNNING or _has_ended(trial)


def _has_ended(trial: FrozenTrial) -> bool:
    return trial.state in _HAS_ENDED or trial.user_attrs.get(ENDED) == FAILED


def known(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """What is known of each point: while it goes on, that is what it was stopped with."""
    trials = list(trials)
    before = {number for number, one in continued(trials).items() if _has_ended(one)}
    going_on = {one.number for one in trials if CONTINUES in one.user_attrs and not _has_ended(one)}
    return [trial for trial in trials if trial.number not in before | going_on]


class OnePerPoint(BaseSampler):
    """A sampler that is shown each point once, with the most that is known of it.

    Args:
        sampler: chooses.
    """

    def __init__(self, sampler: BaseSampler) -> None:
        self._sampler = sampler

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._sampler.before_trial(_Known(study), trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._sampler.infer_relative_search_space(_Known(study), trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._sampler.sample_relative(_Known(study), trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._sampler.sample_independent(_Known(study), trial, param_name, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        self._sampler.after_trial(_Known(study), trial, state, values)


class _Known(Study):
    """A study as samplers read it, with `known` trials alone."""

    def __init__(self, study: Study) -> None:
        vars(self).update(vars(study))

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        shown = known(super()._get_trials(deepcopy=False, use_cache=use_cache))
        chosen = [trial for trial in shown if states is None or trial.state in states]
        return copy.deepcopy(chosen) if deepcopy else chosen
