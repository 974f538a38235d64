"""A sampler that begins with a Sobol sequence, which `compare_search.py` compares with those that begin at random."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from optuna._transform import _SearchSpaceTransform
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from scipy.stats import qmc

from clsweep.seeding import derived_seed
from clsweep.space import Space


class SobolStart(BaseSampler):
    """A sampler whose first points are those of a scrambled Sobol sequence.

    Points of such a sequence leave smaller gaps than random ones (Sobol, 1967; Owen, 1998). A trial's place in it is
    the number of points before it: processes that share a study need not agree on anything else, and a study that is
    resumed goes on in it.

    Args:
        then: chooses the points once there are enough finished trials.
        n_start: how many it takes.
        space: what is searched.
        seed: the sweep's.
    """

    def __init__(self, then: BaseSampler, n_start: int, space: Space, seed: int) -> None:
        self._then = then
        self._n_start = n_start
        self._space = space
        self._seed = derived_seed(seed, "sobol") % 2**32
        self._place: int | None = None

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Decide whose the trial's point is; see `optuna.samplers.BaseSampler`."""
        trials = study.get_trials(deepcopy=False)
        finished = sum(one.state in (TrialState.COMPLETE, TrialState.PRUNED) for one in trials)
        starts = finished < self._n_start and self._space
        self._place = sum(one.number < trial.number for one in trials) if starts else None
        self._then.before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._then.infer_relative_search_space(study, trial) if self._place is None else self._space

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if self._place is None:
            return self._then.sample_relative(study, trial, search_space)
        return sobol_point(self._space, self._place, self._seed)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._then.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        self._then.after_trial(study, trial, state, values)


def sobol_point(space: Space, place: int, seed: int) -> dict[str, Any]:
    """A point of a scrambled Sobol sequence.

    Args:
        space: what is searched, at least one range.
        place: the point's in the sequence, from 0.
        seed: of the scrambling.
    """
    engine = qmc.Sobol(len(space), rng=seed)
    if place:
        engine.fast_forward(place)
    (drawn,) = engine.random(1)
    transform = _SearchSpaceTransform(space, transform_0_1=True)
    return transform.untransform(drawn)
