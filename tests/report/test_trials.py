"""What trials count as, and what is said of a study's tuning."""

from __future__ import annotations

import io
import math

import pandas as pd
import pytest
from trees import TRIALS

from clsweep.report import trials, tuning
from clsweep.results import Results
from clsweep.results.tuning import best_of

ONE = ["reg_strength"]


@pytest.fixture
def study() -> pd.DataFrame:
    """Four complete trials (0.8, 0.95, 0.9, 0.94), one that was pruned at 0.99, one that diverged."""
    return pd.read_csv(io.StringIO(TRIALS), dtype={"reason": "str"}).assign(study="s")


def numbers(study: pd.DataFrame) -> list[int]:
    return [int(one) for one in trials.attempts(study, ONE)["number"]]


@pytest.mark.parametrize(
    ("stood", "expected"),  # complete ones stood at 0.9, 0.97, 0.96, 0.96 and reached 0.8, 0.95, 0.9, 0.94
    [
        (0.99, 0.95),  # above all of them: never better than the best
        (0.97, 0.95),
        (0.965, (0.95 + 0.92) / 2),
        (0.96, 0.92),  # two stood there
        (0.93, (0.8 + 0.92) / 2),
        (0.9, 0.8),
        (0.85, 0.8),  # below all of them: the worst
        (0.3, 0.3),  # or what it had reached
        (math.nan, 0.8),
    ],
)
def test_a_pruned_trial_counts_as_complete_ones_that_stood_where_it_stood(
    study: pd.DataFrame, stood: float, expected: float
) -> None:
    study["validation_after_1"] = study["validation_after_1"].where(study["number"] != 2, stood)
    assert trials.counted(study, ONE).tolist() == pytest.approx([0.8, 0.95, expected, 0.8, 0.9, 0.94])


def test_a_trial_is_compared_where_it_was_stopped(study: pd.DataFrame) -> None:
    study["validation_after_2"] = [0.8, 0.95, 0.85, math.nan, 0.9, 0.94]
    assert trials.counted(study, ONE)[2] == pytest.approx(0.85)  # which is what these reached in the end


def test_trials_of_unknown_course_count_as_the_worst(study: pd.DataFrame) -> None:
    known = study.drop(columns=["validation_after_1", "validation_after_2"])
    assert trials.counted(known, ONE).tolist() == [0.8, 0.95, 0.8, 0.8, 0.9, 0.94]
    study.loc[study["state"] == "COMPLETE", "validation_after_1"] = math.nan
    assert trials.counted(study, ONE).tolist() == [0.8, 0.95, 0.8, 0.8, 0.9, 0.94]


@pytest.mark.parametrize(
    "reason",
    [
        "interrupted",
        "its process ended (process 12 on host)",
        "outside of what is searched now",
        "trial 3 goes on with trial 2",
    ],
)
def test_what_ended_a_trial_through_no_fault_of_its_values_is_no_attempt(study: pd.DataFrame, reason: str) -> None:
    study.loc[3, "reason"] = reason
    assert numbers(study) == [0, 1, 2, 4, 5]


@pytest.mark.parametrize(("ended", "is_one"), [("failed", True), ("interrupted", False), ("lost", False), ("", True)])
def test_how_a_trial_ended_is_read_where_it_is_written(study: pd.DataFrame, ended: str, is_one: bool) -> None:
    study = study.assign(ended="")
    study.loc[3, "ended"] = ended
    assert (3 in numbers(study)) is is_one


def test_the_page_counts_trials_as_the_sweep_does(study: pd.DataFrame) -> None:
    assert trials.ended_told(study) == "5 trials finished, 1 of them pruned; 1 failed"
    study = study.assign(ended=["", "", "", "failed", "lost", "interrupted"])
    study.loc[4:, "state"] = "FAIL"
    counted = "3 trials finished, 1 of them pruned; 1 failed; not counted: 2 that were interrupted, lost or doubled"
    assert trials.ended_told(study) == counted
    study.loc[0, "state"] = "RUNNING"
    assert trials.ended_told(study).startswith("2 trials finished")
    assert trials.ended_told(study).endswith("; 1 running or killed")


def test_a_trial_that_a_later_one_of_its_values_replaced_is_no_attempt(study: pd.DataFrame) -> None:
    study["reg_strength"] = [1.0, 10.0, 1000.0, 1e5, 1000.0, 10.0]  # 2 was stopped at a rung, and 4 went on with it
    assert numbers(study) == [0, 1, 3, 4, 5]  # 1 and 5 are two draws


def test_of_equal_trials_the_best_is_that_whose_values_were_tried_first(study: pd.DataFrame) -> None:
    study["reg_strength"] = [1.0, 10.0, 1.0, 2.0, 5.0, 3.0]
    study["state"] = ["FAIL", "COMPLETE", "COMPLETE", "COMPLETE", "COMPLETE", "COMPLETE"]
    study["validation_average_accuracy"] = [math.nan, 0.9, 0.9, 0.8, 0.9, 0.8]
    best = trials.best_trial(study, ONE)
    assert best is not None
    assert best["number"] == 2  # 0 was lost
    assert trials.best_trial(study[study["state"] == "FAIL"], ONE) is None


def test_trials_that_run_are_no_attempts(study: pd.DataFrame) -> None:
    study.loc[1, "state"] = "RUNNING"
    study.loc[4, "validation_average_accuracy"] = math.nan
    assert numbers(study) == [0, 2, 3, 5]


def test_without_a_complete_trial_nothing_is_said(study: pd.DataFrame) -> None:
    stopped = study[study["state"] != "COMPLETE"]
    assert trials.best_of_trials(stopped, ONE) is None
    assert trials.flatness(stopped, "reg_strength", ONE) is None
    assert tuning.told(stopped, ONE) == []
    assert trials.best_of_trials(study.iloc[:0], ONE) is None


def test_flatness_ends_where_a_trial_was_pruned(study: pd.DataFrame) -> None:
    study.loc[4, "validation_average_accuracy"] = 0.946
    made = trials.flatness(study, "reg_strength", ONE)
    assert made is not None
    assert (made.low, made.best, made.high, made.open_below, made.open_above) == (10, 10, 10, False, False)  # 30: 0.94
    study.loc[5, "validation_average_accuracy"] = 0.946
    made = trials.flatness(study, "reg_strength", ONE)
    assert made is not None
    assert (made.low, made.high, made.open_above) == (10, 100, False)  # 1000 was pruned


def test_values_that_are_no_numbers_have_no_range(study: pd.DataFrame) -> None:
    study["reg_strength"] = ["a", "b", "c", "d", "e", "f"]
    assert trials.flatness(study, "reg_strength", ONE) is None
    assert len(tuning.told(study, ONE)) == 1


def test_a_studys_tuning_is_told(study: pd.DataFrame) -> None:
    best = best_of([0.8, 0.95, 0.95, 0.8, 0.9, 0.94])
    needed = next(n for n in range(1, 7) if best.mean[n - 1] >= 0.945)
    first, second = tuning.told(study, ONE)
    assert first.startswith(f"The best of {needed} of the 6 trials is on average within 0.005 of the best of all")
    assert f"from {best.low[needed - 1]:.4f} to {best.high[needed - 1]:.4f}." in first
    assert second == "Within 0.005 of the best: reg_strength 10 alone of those that were tried."
    assert tuning.told(study, ["reg_strength", "gamma"]) == [first]  # of two, one's range says little


def test_the_expected_best_of_every_study_is_a_table(study: pd.DataFrame) -> None:
    known = {
        "study": "s",
        "benchmark": "split_mnist",
        "method": "ewc",
        "budget": "full",
        "tune_on": "stream",
        "space": {"reg_strength": ""},
    }
    others = {
        "study": "t",
        "benchmark": "split_mnist",
        "method": "si",
        "budget": "full",
        "tune_on": "stream",
        "space": math.nan,
    }
    empty = pd.DataFrame()
    found = Results(empty, empty, empty, study, empty, pd.DataFrame([known, others]), [])
    made = tuning.expected_best(found)
    assert made["n"].tolist() == [1, 2, 3, 4, 5, 6]
    assert made["mean"].tolist() == pytest.approx(list(best_of([0.8, 0.95, 0.95, 0.8, 0.9, 0.94]).mean))
    assert set(made["method"]) == {"ewc"}
    assert made[["trials", "pruned", "failed"]].drop_duplicates().to_numpy().tolist() == [[6, 1, 1]]
