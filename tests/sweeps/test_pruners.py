from __future__ import annotations

import math
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import optuna
import pytest
from builders import setting
from optuna.pruners import MedianPruner, PatientPruner
from optuna.study import Study

from clsweep.errors import InputError
from clsweep.space import parse
from clsweep.sweeps.checking import check_search
from clsweep.sweeps.pruners import LatestValue, is_clearly_worse, pruner
from clsweep.sweeps.samplers import sampler


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
    assert isinstance(pruner("MedianPruner", {"n_startup_trials": 2}, 3), LatestValue)
    every_third = {"n_startup_trials": 3, "interval_steps": 3}
    assert not prunes(pruner("median", every_third, 3), [0.99, 0.5])
    assert isinstance(pruner("percentile", {"percentile": 25.0}, 3), LatestValue)
    patient = pruner("patient", {"wrapped_pruner": "median", "patience": 1}, 3)
    assert isinstance(patient, PatientPruner)
    assert isinstance(patient._wrapped_pruner, LatestValue)
    assert not prunes(pruner(None, {}, 3), [0.0, 0.0])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "MedianPrunner",
            {},
            "search.pruner=MedianPrunner: no such class in optuna.pruners; expected one such as Median",
        ),
        (
            None,
            {"n_startup_trials": 3},
            "search.pruner_options={'n_startup_trials': 3}: without a pruner nothing takes",
        ),
        (
            "median",
            {"n_startup": 3},
            "search.pruner_options: MedianPruner has no argument n_startup; expected n_startup_trials.",
        ),
        (
            "percentile",
            {},
            "search.pruner=PercentilePruner: needs percentile; expected search.pruner_options='{percentile: ...}'.",
        ),
        (
            "threshold",
            {},
            "search.pruner_options={}: Either lower or upper must be specified; expected arguments of ThresholdPruner",
        ),
        ("patient", {"patience": 1}, "search.pruner=PatientPruner: needs wrapped_pruner; expected "),
        ("patient", {"patience": 1, "wrapped_pruner": "medin"}, "search.pruner=medin: no such class in optuna.pruners"),
        ("BasePruner", {}, "search.pruner=BasePruner: no such class"),
        (
            "hyperband",
            {"min_resource": 1},
            "search.pruner_options: min_resource=1: is no context after the first, which is the same for all trials, "
            "and before the last; expected 2.",
        ),
        (
            "HyperbandPruner",
            {"max_resource": 5},
            "search.pruner_options: Hyperband has no argument max_resource; expected min_resource.",
        ),
        (
            "successive_halving",
            {"reduction_factor": 1},
            "search.pruner_options={'reduction_factor': 1}: reduction_factor=1 is no integer of 2 or more; expected "
            "arguments of SuccessiveHalving: min_resource, reduction_factor.",
        ),
        (
            "successive_halving",
            {"reduction_factor": "auto"},
            "search.pruner_options={'reduction_factor': 'auto'}: reduction_factor=auto is no integer of 2 or more",
        ),
        (
            "patient",
            {"patience": 1, "wrapped_pruner": "hyperband"},
            "search.pruner_options: wrapped_pruner=hyperband: promotes what it has stopped",
        ),
    ],
)
def test_a_wrong_pruner_is_one_sentence(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as error:
        pruner(name, options, 3)
    assert str(error.value).startswith(message)


def test_trials_of_two_contexts_have_no_rung() -> None:
    with pytest.raises(InputError) as error:
        pruner("hyperband", None, 2)
    assert str(error.value) == (
        "search.pruner=hyperband: stops trials after their second context at the earliest, and these have 2; expected "
        "another pruner, or null."
    )


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("tpee", {}, "search.sampler=tpee: no such class in optuna.samplers; expected one such as TPESampler"),
        (
            "tpe",
            {"starup_trials": 3},
            "search.sampler_options: TPESampler has no argument starup_trials",
        ),
        ("grid", {}, "search.sampler=grid: goes through a grid"),
        ("bruteforce", {}, "search.sampler=bruteforce: goes through a grid"),
        (
            "partialfixed",
            {},
            "search.sampler=partialfixed: fixes some of the values, which a sweep",
        ),
    ],
)
def test_a_wrong_sampler_is_one_sentence(name: str, options: dict[str, int], message: str) -> None:
    with pytest.raises(InputError) as error:
        sampler(name, options, 0)
    assert str(error.value).startswith(message)


SPACE = {"reg_strength": "tag(log, interval(1, 1e6))", "gamma": "choice(0.5, 1)"}


def checked(search: dict[str, Any], space: dict[str, str] = SPACE) -> None:
    config = setting("+benchmark=split_mnist", "dataset=mnist_5k", "regularizer=l2").search
    check_search(replace(config, **search), parse(space), steps=3)


def test_every_sampler_and_pruner_of_optunas_is_taken_or_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cmaes", None)  # as where it is not installed
    refused: dict[str, str] = {}
    for key, module in (("sampler", optuna.samplers), ("pruner", optuna.pruners)):
        for name in module.__all__:
            if not name.startswith("Base"):
                try:
                    checked({key: name})
                except InputError as error:
                    refused[name] = str(error)
    assert refused["CmaEsSampler"] == (
        "search.sampler=CmaEsSampler: needs the package cmaes, which is not installed; expected another sampler, or "
        "pip install cmaes."
    )
    others = {"BruteForceSampler", "GridSampler", "PartialFixedSampler"}
    assert set(refused) == {"CmaEsSampler", *others, "PatientPruner", "PercentilePruner", "ThresholdPruner"}
    checked({"sampler": "cmaes"}, {"gamma": "choice(0.5, 1)"})  # which then goes by another sampler of Optuna's


@pytest.mark.parametrize(
    ("search", "message"),
    [
        (
            {"sampler_options": {"n_startup_trials": "many"}},
            "search.sampler=TPESampler: can't be used like this (TypeError: ",
        ),
        (
            {"pruner": "patient", "pruner_options": {"wrapped_pruner": 3, "patience": 1}},
            "search.pruner=patient: can't be used like this (AttributeError: 'int' object has no attribute 'prune'); "
            "expected other search.pruner_options, or another pruner.",
        ),
    ],
)
def test_arguments_that_are_looked_at_late_are_refused_early(search: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as error:
        checked(search)
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
    best = np.array([[0.99, 0.98, 0.97], [0.96, 0.98, 0.95]])
    assert is_clearly_worse((best - 0.01).tolist(), best.tolist())
    assert not is_clearly_worse((best + 0.01).tolist(), best.tolist())
    assert not is_clearly_worse(best.tolist(), best.tolist())
    worse_here_better_there = np.add(best, [[-0.01, 0.01, -0.01], [0.01, -0.02, 0.01]])
    assert not is_clearly_worse(worse_here_better_there.tolist(), best.tolist())
    assert not is_clearly_worse((best[:1] - 0.5).tolist(), best[:1].tolist())  # one seed says nothing about others
    assert is_clearly_worse([[0.5], [0.25]], [[0.75], [0.5]])  # the same difference on each


@pytest.mark.parametrize("common", [0.0, 1.0, 3.0])
def test_an_equal_trial_is_stopped_no_more_often_than_the_level_says(common: float) -> None:
    """Whatever all contexts of a seed have in common."""
    draws = np.random.default_rng(0)
    stopped = 0
    for _ in range(1_000):
        trial = common * draws.normal(size=(2, 1)) + draws.normal(size=(2, 10))
        stopped += is_clearly_worse(trial.tolist(), np.zeros((2, 10)).tolist())
    assert stopped < 100 + 3 * math.sqrt(90)
