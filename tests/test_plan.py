from __future__ import annotations

from pathlib import Path

import pytest
from sweeping import plan

from clsweep.sweep.plan import StudyPlan, searched

HERE = Path()


@pytest.mark.parametrize(
    "override",
    [
        "benchmark.iters=5",
        "benchmark.lr=0.01",
        "benchmark.contexts=2",
        "dataset=mnist",
        "network.hidden=[9]",
        "validation_fraction=0.2",
        "precision=bf16",
        "seed=1",
        "search.seeds=2",
        "regularizer.gamma=0.5",  # not searched by ewc, so it is part of the method
        "regularizer.fisher.labels=sampled",
        "regularizer=si",
        "regularizer=online_ewc",
    ],
)
def test_what_changes_results_makes_another_study(override: str) -> None:
    assert plan(HERE, "regularizer=ewc", override).name != plan(HERE, "regularizer=ewc").name


@pytest.mark.parametrize(
    "override",
    [
        "search.n_trials=7",
        "search.final_seeds=1",
        "search.pruner=null",
        "search.workers=2",
        "regularizer.reg_strength=3",
    ],
)
def test_what_does_not_finds_the_study_again(override: str) -> None:
    assert plan(HERE, "regularizer=ewc", override).name == plan(HERE, "regularizer=ewc").name


def test_a_study_is_named_after_benchmark_and_method() -> None:
    assert plan(HERE, "regularizer=ewc").name.startswith("split_mnist-ewc-")
    assert plan(HERE, "stream=joint").name.startswith("split_mnist-joint-")


def test_another_content_of_a_file_makes_another_study(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("a = 1")
    before = plan(HERE, f"regularizer.file={file}").name
    moved = file.rename(tmp_path / "moved.py")
    assert plan(HERE, f"regularizer.file={moved}").name == before
    moved.write_text("a = 2")
    assert plan(HERE, f"regularizer.file={moved}").name != before


def test_an_interval_may_move_but_not_become_a_choice() -> None:
    def named(text: str) -> str:
        return plan(HERE, "regularizer=mas", space={"reg_strength": text}).name

    assert named("tag(log, interval(1, 10))") == named("tag(log, interval(1, 100))")
    assert len({named("tag(log, interval(1, 10))"), named("interval(1, 10)"), named("1,2"), named("1,3")}) == 4


def test_default_values_and_seeds() -> None:
    made = plan(HERE, "regularizer=si", "seed=5", "search.seeds=2", "search.final_seeds=3")
    assert made.default == {"reg_strength": 10.0, "epsilon": 0.1}
    assert made.seeds == [5, 6]
    assert not set(made.seeds) & set(made.final_seeds)
    assert len(made.final_seeds) == 3


def test_a_trial_holds_validation_data_out_and_a_final_run_does_not() -> None:
    made = plan(HERE, "regularizer=si", "validation_fraction=0")
    point = {"reg_strength": 3.0, "epsilon": 0.5}
    trial, final = made.trial_config(point, 7), made.final_config(point, 1007)
    assert trial.validation_fraction == 0.1
    assert final.validation_fraction == 0
    assert (trial.seed, final.seed) == (7, 1007)
    assert trial.regularizer.reg_strength == final.regularizer.reg_strength == 3.0
    assert trial.regularizer.epsilon == final.regularizer.epsilon == 0.5
    assert made.config.regularizer.reg_strength == 10.0


def test_a_finite_space_limits_the_budget() -> None:
    assert plan(HERE, "regularizer=none").n_trials == 1
    three = {"reg_strength": "1,2,3"}
    assert plan(HERE, "regularizer=ewc", space=three).n_trials == 3
    assert plan(HERE, "regularizer=ewc", "search.n_trials=2", space=three).n_trials == 2
    assert plan(HERE, "regularizer=ewc").n_trials == 40


def test_what_is_searched() -> None:
    config = plan(HERE, "regularizer=custom").config
    every = ("reg_strength", "gamma", "epsilon")
    assert list(searched(config, every, {}, set())) == ["reg_strength", "gamma", "epsilon"]
    assert list(searched(config, ("reg_strength",), {}, set())) == ["reg_strength"]
    assert list(searched(config, every, {}, {"gamma"})) == ["reg_strength", "epsilon"]
    assert searched(config, ("gamma",), {"gamma": "0.5,1"}, set()) == {"gamma": "0.5,1"}
    joint = plan(HERE, "stream=joint").config
    assert searched(joint, every, {}, set()) == {}


@pytest.mark.parametrize(
    "method", ["l2", "ewc", "ewc_separate", "online_ewc", "kfac_ewc", "si", "mas", "rwalk", "custom"]
)
@pytest.mark.parametrize("benchmark", ["split_mnist", "perm_mnist", "split_cifar100"])
def test_good_values_lie_in_the_space(method: str, benchmark: str) -> None:
    from builders import setting

    from clsweep.sweep.space import contains

    made = StudyPlan(setting(f"+benchmark={benchmark}", f"regularizer={method}"), HERE)
    assert made.space
    assert contains(made.space, made.default)
