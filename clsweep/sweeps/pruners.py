"""When a trial is stopped early: after each context by a pruner, between seeds by a paired test."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from optuna.pruners import BasePruner, NopPruner, PercentilePruner
from optuna.study import Study
from optuna.trial import FrozenTrial
from scipy import special  # scipy.stats takes a second to import

from clsweep.errors import InputError
from clsweep.sweeps.named import build, find, normalized
from clsweep.sweeps.promotion import Hyperband, Promotion, SuccessiveHalving

_P_HOPELESS = 0.1
# Optuna's pruners of these names stop trials for good.
_OURS: dict[str, type[SuccessiveHalving]] = {"successivehalving": SuccessiveHalving, "hyperband": Hyperband}
_WITHIN = "wrapped_pruner"  # PatientPruner's


class LatestValue(BasePruner):
    """A percentile pruner that judges a trial by its latest value.

    Optuna's median and percentile pruners take the best value that a trial has reported so far. The average accuracy
    over the learned contexts falls from context to context, and the first one's is the same for all trials of a seed:
    judged by their best value, no trial would ever be pruned.

    Args:
        pruner: what judges.
    """

    def __init__(self, pruner: PercentilePruner) -> None:
        self._pruner = pruner

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether the trial should stop; see `optuna.pruners.BasePruner`."""
        step = trial.last_step
        if step is None:
            return False
        latest = copy.copy(trial)
        latest.intermediate_values = dict.fromkeys(trial.intermediate_values, trial.intermediate_values[step])
        return self._pruner.prune(study, latest)


def pruner(name: str | None, options: dict[str, Any] | None, steps: int) -> BasePruner:
    """The pruner of a study.

    Args:
        name: `search.pruner`; None: nothing is pruned.
        options: `search.pruner_options`; a pruner within another one (`wrapped_pruner`) is named as this one is.
        steps: how many contexts a trial has, counted over its seeds.

    Raises:
        InputError: there is no such pruner, or it doesn't take these options.
    """
    if name is None:
        if options:
            raise InputError(
                f"search.pruner_options={options}: without a pruner nothing takes them; expected search.pruner=NAME, "
                "or the command without them."
            )
        return NopPruner()
    ours = _OURS.get(normalized(name).removesuffix("pruner"))
    if ours is not None:
        made: SuccessiveHalving = build(ours, "pruner", options or {})
        return made.promotion(name, steps)
    return _of_optunas(name, options, steps)


def _of_optunas(name: str, options: dict[str, Any] | None, steps: int) -> BasePruner:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        arguments = {
            one: _within(value, steps) if one == _WITHIN and isinstance(value, str) else value
            for one, value in (options or {}).items()
        }
        made = build(find(optuna.pruners, BasePruner, "pruner", name), "pruner", arguments)
    return LatestValue(made) if isinstance(made, PercentilePruner) else made


def _within(name: str, steps: int) -> BasePruner:
    """A pruner within another one."""
    made = pruner(name, None, steps)
    if isinstance(made, Promotion):
        raise InputError(
            f"search.pruner_options: {_WITHIN}={name}: promotes what it has stopped, which no pruner around it does; "
            f"expected search.pruner={name}, or another one within."
        )
    return made


def is_clearly_worse(trial: Sequence[Sequence[float]], best: Sequence[Sequence[float]]) -> bool:
    """Whether a trial that has run some of its seeds is clearly worse than the best trial.

    A one-sided paired t-test on the seeds' means over contexts, at level 0.1 for each look. The contexts of a seed
    share its class order and initial parameters, so they don't count as separate evidence. After a single seed a trial
    never is clearly worse. A signed-rank test, as in Optuna's WilcoxonPruner, couldn't decide before the fourth.

    Args:
        trial: its accuracies on each context after the last one, [seeds, contexts], of its seeds so far.
        best: the best trial's, of the same seeds and contexts.

    Returns:
        True where the trial's means are lower, by the test.
    """
    differences = np.subtract(trial, best).mean(axis=1)
    if len(trial) < 2 or differences.mean() >= 0:
        return False
    error = differences.std(ddof=1) / math.sqrt(len(trial))
    return bool(error == 0 or special.stdtr(len(trial) - 1, differences.mean() / error) < _P_HOPELESS)
