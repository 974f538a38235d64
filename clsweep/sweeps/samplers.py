"""Optuna's samplers by name, seeded anew for each trial."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, QMCSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from clsweep.errors import InputError
from clsweep.seeding import derived_seed
from clsweep.sweeps.named import build, find

_GRID = (
    "goes through a grid, which a sweep does by itself where all that is searched are choices, as in "
    "regularizer.reg_strength=1,10,100"
)
_START = "n_startup_trials"
_N_START = 5  # random points before a sampler chooses, where Optuna has 10: docs/experiments/samplers.md
_NOT_NEEDED: dict[type[Any], str] = {
    optuna.samplers.GridSampler: _GRID,
    optuna.samplers.BruteForceSampler: _GRID,
    optuna.samplers.PartialFixedSampler: "fixes some of the values, which a sweep does where they are given, as in "
    "regularizer.gamma=0.9",
}


class SeededByTrial(BaseSampler):
    """A sampler whose random numbers start anew for each trial, from its number.

    A study that is resumed therefore repeats no point, and processes that share it draw different ones; a study that
    one process ran can be reproduced.

    Args:
        make: makes the sampler from a seed.
        seed: the sweep's.
    """

    def __init__(self, make: Callable[[int], BaseSampler], seed: int) -> None:
        self._make = make
        self._seed = seed
        self._sampler = make(0)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Make the sampler anew; see `optuna.samplers.BaseSampler`."""
        self._sampler = self._make(self._seed_of(trial))
        self._sampler.before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """A random point instead of one that a trial has; see `optuna.samplers.BaseSampler`.

        The GP sampler is apt to choose an end of a range again and again.
        """
        point = self._sampler.sample_relative(study, trial, search_space)
        if not point or all(one.params != point for one in study.get_trials(deepcopy=False)):
            return point
        anyhow = RandomSampler(self._seed_of(trial))
        return {name: anyhow.sample_independent(study, trial, name, one) for name, one in search_space.items()}

    def _seed_of(self, trial: FrozenTrial) -> int:
        return derived_seed(self._seed, "sampler", trial.number) % 2**32

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        self._sampler.after_trial(study, trial, state, values)


def sampler(name: str, options: dict[str, Any] | None, seed: int) -> BaseSampler:
    """The sampler of a study.

    Args:
        name: `search.sampler`.
        options: `search.sampler_options`.
        seed: the sweep's.

    Raises:
        InputError: Optuna has no such sampler, a sweep does by itself what it does, or it doesn't take these options.
    """
    kind = find(optuna.samplers, BaseSampler, "sampler", name)
    if kind in _NOT_NEEDED:
        raise InputError(f"search.sampler={name}: {_NOT_NEEDED[kind]}; expected another sampler.")
    if "seed" in (options or {}):
        raise InputError(
            f"search.sampler_options={options}: the seed of the sweep and a trial's number decide what the sampler "
            "draws; expected no seed in it, and another seed=N for other draws (trials are trained with that, too)."
        )
    takes = inspect.signature(kind).parameters
    arguments = ({_START: _N_START} if _START in takes else {}) | (options or {})

    def make(own_seed: int) -> BaseSampler:
        seeded = {"seed": own_seed} if "seed" in takes else {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            made: BaseSampler = build(kind, "sampler", arguments | seeded)
        return made

    if kind is QMCSampler:  # its points are those of one sequence, which the seed names
        return make(seed)
    return SeededByTrial(make, seed)
