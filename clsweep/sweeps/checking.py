"""A study in memory that a sampler and a pruner go through before anything is made.

Some of Optuna's import the package that they need, or look at their arguments, only when they are used.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import optuna
from optuna.study import Study
from optuna.trial import Trial

from clsweep.config import SearchConfig
from clsweep.errors import InputError, named
from clsweep.space import Space
from clsweep.sweeps.pruners import pruner
from clsweep.sweeps.samplers import sampler

_STARTUP = "n_startup_trials"
_TRIALS = 12  # after this many, Optuna's samplers and pruners have what they call their start-up behind them


def check_search(search: SearchConfig, space: Space, steps: int) -> None:
    """Let the sampler choose a point, and the pruner judge it, after a few trials.

    Args:
        search: names both.
        space: what is searched.
        steps: how often a trial reports.

    Raises:
        InputError: there is no such sampler or pruner, it doesn't take its arguments, or it needs a package that is not
            installed.
    """
    options = search.sampler_options or {}
    if isinstance(options.get(_STARTUP), int):
        options = options | {_STARTUP: min(options[_STARTUP], _TRIALS)}
    chooses = sampler(search.sampler, options, 0)
    judges = pruner(search.pruner, search.pruner_options, steps)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(0), pruner=judges)
    for number in range(_TRIALS):
        value = 0.9 - 0.01 * number
        study.tell(_reported(study, space, steps, value), value)
    study.sampler = chooses
    with _told_in_a_sentence("sampler", search.sampler):
        trial = _reported(study, space, steps, 0.5)
    with _told_in_a_sentence("pruner", str(search.pruner)):
        trial.should_prune()


def _reported(study: Study, space: Space, steps: int, value: float) -> Trial:
    """A trial that has reported values which fall to `value`."""
    trial = study.ask(space)
    for step in range(1, steps + 1):
        trial.report(value + 0.001 * (steps - step), step)
    return trial


@contextmanager
def _told_in_a_sentence(key: str, name: str) -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except ImportError as error:
        missing = error.name or getattr(error.__cause__, "name", None) or str(error)
        raise InputError(
            f"search.{key}={name}: needs the package {missing}, which is not installed; expected another {key}, or "
            f"pip install {missing}."
        ) from error
    except Exception as error:
        raise InputError(
            f"search.{key}={name}: can't be used like this ({named(error)}); expected other search.{key}_options, or "
            f"another {key}."
        ) from error
