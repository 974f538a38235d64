from __future__ import annotations

import optuna
import pytest
from optuna.pruners import MedianPruner, SuccessiveHalvingPruner
from optuna.study import Study

from clsweep.errors import InputError
from clsweep.sweep.pruners import LatestValue, hopeless, pruner
from clsweep.sweep.samplers import sampler
from clsweep.sweep.space import parse


def study_of(values: list[list[float]], of: optuna.pruners.BasePruner) -> Study:
    study = optuna.create_study(direction="maximize", pruner=of)
    for reported in values:
        trial = study.ask()
        for step, value in enumerate(reported, start=1):
            trial.report(value, step)
        study.tell(trial, reported[-1])
    return study


FORGETTING = [[0.99, 0.97, 0.95], [0.99, 0.96, 0.94], [0.99, 0.98, 0.96]]


def prunes(of: optuna.pruners.BasePruner, reported: list[float]) -> bool:
    study = study_of(FORGETTING, of)
    trial = study.ask()
    for step, value in enumerate(reported, start=1):
        trial.report(value, step)
    return trial.should_prune()


def test_a_trial_is_judged_by_its_latest_value() -> None:
    median = MedianPruner(n_startup_trials=3)
    assert not prunes(median, [0.99, 0.5])  # why LatestValue is there: the best so far is the first context's
    assert prunes(LatestValue(median), [0.99, 0.5])
    assert not prunes(LatestValue(median), [0.99, 0.975])
    assert not prunes(LatestValue(median), [0.99])


def test_pruners_by_name() -> None:
    assert isinstance(pruner("MedianPruner", {"n_startup_trials": 2}), LatestValue)
    assert isinstance(pruner("percentile", {"percentile": 25.0}), LatestValue)
    assert isinstance(pruner("SuccessiveHalving", {}), SuccessiveHalvingPruner)
    assert not prunes(pruner(None, {}), [0.0, 0.0])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "MedianPrunner",
            {},
            "search.pruner=MedianPrunner: no such class in optuna.pruners; expected one such as Median",
        ),
        ("median", {"n_startup": 3}, "search.pruner_options={'n_startup': 3}"),
        ("BasePruner", {}, "search.pruner=BasePruner: no such class"),
    ],
)
def test_a_wrong_pruner_is_one_sentence(name: str, options: dict[str, int], message: str) -> None:
    with pytest.raises(InputError) as error:
        pruner(name, options)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("tpee", {}, "search.sampler=tpee: no such class in optuna.samplers; expected one such as TPESampler"),
        ("tpe", {"startup": 3}, "search.sampler_options={"),
        ("grid", {}, "search.sampler_options="),
    ],
)
def test_a_wrong_sampler_is_one_sentence(name: str, options: dict[str, int], message: str) -> None:
    with pytest.raises(InputError) as error:
        sampler(name, options, 0)
    assert str(error.value).startswith(message)


def draws(name: str, seed: int, n: int, per_session: int) -> list[float]:
    """The values of n trials, by a process that is started anew after every few."""
    study = optuna.create_study(direction="maximize")
    space = parse({"reg_strength": "interval(0, 1)"})
    for number in range(n):
        if number % per_session == 0:
            study.sampler = sampler(name, {}, seed)
        trial = study.ask(space)
        study.tell(trial, trial.params["reg_strength"])
    return [trial.params["reg_strength"] for trial in study.trials]


@pytest.mark.parametrize("name", ["TPESampler", "RandomSampler"])
def test_a_resumed_study_repeats_no_point_and_can_be_reproduced(name: str) -> None:
    whole = draws(name, seed=3, n=14, per_session=100)
    assert len(set(whole)) == 14
    assert draws(name, seed=3, n=14, per_session=5) == whole
    assert draws(name, seed=4, n=14, per_session=100) != whole


def test_only_a_clearly_worse_trial_is_hopeless() -> None:
    best = [0.99, 0.98, 0.97, 0.96, 0.98]
    assert hopeless([value - 0.01 for value in best], best)
    assert not hopeless([value + 0.01 for value in best], best)
    assert not hopeless(best, best)
    assert not hopeless([0.98, 0.99, 0.96, 0.97, 0.97], best)  # worse here, better there
    assert not hopeless([0.9], [0.99])  # a single pair says nothing
