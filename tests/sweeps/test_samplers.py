"""How a search begins, and samplers that would repeat themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial

from clsweep.errors import InputError
from clsweep.space import Point, parse
from clsweep.sweeps.samplers import SeededByTrial, sampler

PLANE = parse({"gamma": "interval(0, 1)", "reg_strength": "tag(log, interval(1, 1e4))"})


def tried(n: int, name: str = "tpe", **options: Any) -> list[Point]:
    """The points of n trials, each chosen by a process of its own, the better the higher their strength."""
    study = optuna.create_study(direction="maximize")
    for _ in range(n):
        study.sampler = sampler(name, options, 0)
        trial = study.ask(PLANE)
        study.tell(trial, float(trial.params["reg_strength"]))
    return [trial.params for trial in study.trials]


@pytest.mark.parametrize("name", ["tpe", "gp"])
def test_five_points_are_random_and_then_the_sampler_chooses(name: str) -> None:
    begun, at_random = tried(6, name), tried(6, "random")
    assert begun[:5] == at_random[:5]
    assert begun[5] != at_random[5]
    later = tried(6, name, n_startup_trials=6)
    assert later == at_random


def test_a_seed_of_its_own_is_refused_and_not_advised() -> None:
    with pytest.raises(
        InputError, match=r"^search\.sampler_options=\{'seed': 3\}: the seed of the sweep and a trial's"
    ):
        sampler("tpe", {"seed": 3}, 0)
    with pytest.raises(InputError, match=r"has no argument n_startup_trials; expected no search\.sampler_options\.$"):
        sampler("random", {"n_startup_trials": 3}, 0)


def test_processes_go_through_one_sequence_of_points() -> None:
    points = tried(17, "qmc", scramble=True)[1:]  # the very first one is a random point
    x, y = np.array([[point["gamma"], np.log10(float(point["reg_strength"])) / 4] for point in points], float).T
    for columns, rows in ((16, 1), (4, 4), (1, 16)):  # no sixteenth is left empty
        assert len(set(zip(np.floor(x * columns), np.floor(y * rows), strict=True))) == 16


class Same(optuna.samplers.BaseSampler):
    """Always chooses the end of a range, as the GP sampler may."""

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return PLANE

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {"gamma": 1.0, "reg_strength": 1e4}

    def sample_independent(self, *_: object) -> None:
        raise AssertionError


def test_a_point_that_a_trial_has_is_not_chosen_again() -> None:
    study = optuna.create_study(direction="maximize", sampler=SeededByTrial(lambda _: Same(), seed=0))
    for _ in range(4):
        study.tell(study.ask(PLANE), 0.5)
    points = [tuple(trial.params.values()) for trial in study.trials]
    assert points[0] == (1.0, 1e4)
    assert len(set(points)) == 4
