"""Studies whose storage is gone."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import sweeping
from optuna.trial import FrozenTrial, TrialState
from sweeping import easy_images, finish, random_images, worker

from clsweep.sweep import storage
from clsweep.sweep.ledger import ENDED, LOST, REASON, VOID
from clsweep.sweep.recovery import recover
from clsweep.sweep.trial import FOLDER, ON_CONTEXTS, SEEDS, TEST

METHOD = """
def estimate_importance(model, dataset, prev_params, device):
    return {}


def compute_regularization_loss(model, importance_dict, prev_params_dict):
    return sum(p.square().sum() for p in model.parameters())


HYPERPARAMETERS = ("reg_strength",)
"""


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    close()


def close() -> None:
    while sweeping.opened:
        storage.close(sweeping.opened.pop())


def lose_storage(folder: Path) -> None:
    close()
    (folder / "studies.db").unlink()


def as_told(trials: list[FrozenTrial]) -> list[object]:
    names = (FOLDER, SEEDS, TEST, ON_CONTEXTS, REASON)
    return [
        (trial.number, trial.state, trial.params, *(trial.user_attrs.get(name) for name in names)) for trial in trials
    ]


def numbers(trials: list[FrozenTrial]) -> np.ndarray:
    values = [[trial.value or 0.0, *trial.intermediate_values.values()] for trial in trials]
    return np.array([number for row in values for number in row])


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_study_is_the_same_as_before(tmp_path: Path, seeds: int) -> None:
    overrides = (
        *("regularizer=l2", "benchmark.iters=60", "benchmark.lr=0.01", f"search.seeds={seeds}", "search.n_trials=5"),
        *("search.final_seeds=2", "search.pruner_options={n_startup_trials: 2}"),
    )
    before = worker(tmp_path, *overrides, load=easy_images)
    trials = finish(before)
    finals = before.final_study().get_trials()
    assert {trial.state for trial in trials} == {TrialState.COMPLETE, TrialState.PRUNED}
    lose_storage(tmp_path)

    after = worker(tmp_path, *overrides, load=easy_images)
    assert recover(after) == 5
    again, finals_again = after.ledger.trials(), after.final_study().get_trials()
    assert after.is_done()
    assert as_told(again) == as_told(trials)
    assert as_told(finals_again) == as_told(finals)
    assert [sorted(trial.intermediate_values) for trial in again] == [sorted(t.intermediate_values) for t in trials]
    np.testing.assert_allclose(numbers([*again, *finals_again]), numbers([*trials, *finals]), atol=1e-12)
    for trial, earlier in zip(again, trials, strict=True):
        assert trial.datetime_start is not None
        assert earlier.datetime_start is not None
        assert abs((trial.datetime_start - earlier.datetime_start).total_seconds()) < 60


def test_a_run_that_did_not_finish_is_tried_again(tmp_path: Path) -> None:
    overrides = ("regularizer=mas", "search.final_seeds=0", "search.n_trials=3", "search.pruner=null")
    trials = finish(worker(tmp_path, *overrides))
    (tmp_path / "trial-0001" / "summary.csv").unlink()
    lose_storage(tmp_path)

    study = worker(tmp_path, *overrides)
    assert recover(study) == 3
    lost = study.ledger.trials()[1]
    assert (lost.state, lost.user_attrs[ENDED]) == (TrialState.FAIL, LOST)
    last = finish(study)[-1]
    assert (last.number, last.params) == (3, trials[1].params)
    assert last.value == pytest.approx(trials[1].value)


def test_numbers_without_a_folder_stay_free(tmp_path: Path) -> None:
    overrides = ("regularizer=mas", "search.final_seeds=0", "search.n_trials=2", "search.pruner=null")
    finish(worker(tmp_path, *overrides))
    (tmp_path / "trial-0001").rename(tmp_path / "trial-0004")
    lose_storage(tmp_path)

    study = worker(tmp_path, *overrides)
    assert recover(study) == 2
    trials = study.ledger.trials()
    assert [trial.state.name for trial in trials] == ["COMPLETE", "FAIL", "FAIL", "FAIL", "COMPLETE"]
    assert {trial.user_attrs[ENDED] for trial in trials[1:4]} == {VOID}
    assert study.is_done()


def test_a_storage_that_knows_the_study_is_left_alone(tmp_path: Path) -> None:
    overrides = ("regularizer=mas", "search.final_seeds=0", "search.n_trials=2", "search.pruner=null")
    finish(worker(tmp_path, *overrides))
    again = worker(tmp_path, *overrides)
    assert recover(again) == 0
    assert len(again.ledger.trials()) == 2


def test_runs_of_another_study_are_not_taken(tmp_path: Path) -> None:
    finish(worker(tmp_path, "regularizer=mas", "search.final_seeds=0", "search.n_trials=1"))
    lose_storage(tmp_path)
    for others in (("regularizer=l2",), ("regularizer=mas", "benchmark.lr=0.5"), ("regularizer=mas", "seed=7")):
        study = worker(tmp_path, *others, "search.n_trials=1")
        assert recover(study) == 0
        assert study.ledger.trials() == []


def test_a_method_of_ones_own_counts_by_its_copies(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(METHOD)
    folder = tmp_path / "sweep"
    overrides = ("regularizer=custom", f"regularizer.file={file}", "search.final_seeds=1", "search.n_trials=2")
    trials = finish(worker(folder, *overrides, load=random_images))
    lose_storage(folder)

    file.write_text(METHOD.replace("square", "abs"))
    changed = worker(folder, *overrides)
    assert recover(changed) == 0

    file.write_text(METHOD)
    study = worker(folder, *overrides)
    assert recover(study) == 2
    assert as_told(study.ledger.trials()) == as_told(trials)
    study.write()
    assert str(folder / "trial-000") in (folder / "best.yaml").read_text()
    for trial in folder.glob("trial-*"):
        shutil.rmtree(trial)
    study.write()  # a user may remove them
    assert str(file) in (folder / "best.yaml").read_text()
