"""Runs that were finished when their process was killed, before they could be recorded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import sweeping
from optuna.trial import FrozenTrial, TrialState
from sweeping import finish, worker

from clsweep import results
from clsweep.config import Config
from clsweep.sweeps import storage
from clsweep.sweeps.trial import ON_CONTEXTS, SEEDS, TEST
from clsweep.sweeps.worker import StudyWorker
from clsweep.training.run import Outcome, run

ONE = ("regularizer=mas", "search.n_trials=1", "search.final_seeds=0", "search.pruner=null")


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    while sweeping.opened:
        storage.close(sweeping.opened.pop())


class Killed(BaseException):
    """As SIGKILL: nothing is recorded any more."""


def killed_before_the_record(study: StudyWorker, monkeypatch: pytest.MonkeyPatch, after: int = 0) -> None:
    """Work on, and be killed when a run is finished, but not recorded; `after` runs before are."""
    made: list[Outcome] = []

    def killed(*arguments: Any, **others: Any) -> Outcome:
        made.append(run(*arguments, **others))
        if len(made) > after:
            raise Killed
        return made[-1]

    monkeypatch.setattr("clsweep.folders.run", killed)
    with pytest.raises(Killed):
        finish(study)
    finals = study.finals()
    for ledger in [study.ledger] if finals is None else [study.ledger, finals.ledger]:
        for trial in ledger.trials():
            if trial.state == TrialState.RUNNING:
                ledger._mark_lost(trial, "its process ended")


def states(trials: list[FrozenTrial]) -> list[str]:
    return [trial.state.name for trial in trials]


def read(folder: Path, name: str = "trials.csv") -> pd.DataFrame:
    return pd.read_csv(folder / name)


def counted_runs(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders of the runs that are trained from now on."""
    folders: list[Path] = []

    def counted(config: Config, folder: Path, *others: Any, **named: Any) -> Outcome:
        folders.append(folder)
        return run(config, folder, *others, **named)

    monkeypatch.setattr("clsweep.folders.run", counted)
    return folders


def test_a_run_that_was_finished_but_not_recorded_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = (*ONE, "search.n_trials=2")
    killed_before_the_record(worker(tmp_path, *overrides), monkeypatch)
    made = (tmp_path / "trial-0000" / "accuracy.csv").read_bytes()
    summary = read(tmp_path / "trial-0000", "summary.csv").iloc[0]

    trained = counted_runs(monkeypatch)
    trials = finish(worker(tmp_path, *overrides))

    assert states(trials) == ["FAIL", "COMPLETE", "COMPLETE"]
    assert trained == [tmp_path / "trial-0002"]
    assert trials[1].params == trials[0].params
    assert trials[1].value == summary.validation_average_accuracy
    assert sorted(trials[1].intermediate_values) == [1, 2, 3]
    assert (tmp_path / "trial-0001" / "accuracy.csv").read_bytes() == made
    assert not (tmp_path / "trial-0000").exists()
    row = read(tmp_path).iloc[1]
    assert (row.validation_average_accuracy, row.test_average_accuracy, row.folder) == (
        summary.validation_average_accuracy,
        summary.average_accuracy,
        str(tmp_path / "trial-0001"),
    )
    assert row.seconds >= summary.train_seconds
    assert row.reason == "finished by an earlier trial of the same values, which could not be recorded"
    found = results.load(tmp_path)
    assert found.problems == []
    assert found.runs["status"].tolist() == ["finished"] * 2


def test_a_run_without_the_network_that_is_to_be_saved_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_before_the_record(worker(tmp_path, *ONE), monkeypatch)
    trained = counted_runs(monkeypatch)
    finish(worker(tmp_path, *ONE, "save_model=true"))
    assert trained == [tmp_path / "trial-0001"]
    assert (tmp_path / "trial-0001" / "model.pt").is_file()


def test_a_taken_trial_is_the_same_as_a_trained_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = (*ONE, "search.seeds=2")
    whole = finish(worker(tmp_path / "whole", *overrides))[0]
    killed_before_the_record(worker(tmp_path / "killed", *overrides), monkeypatch, after=1)
    trained = counted_runs(monkeypatch)
    taken = finish(worker(tmp_path / "killed", *overrides))[1]
    assert trained == []
    for attribute in ("value", "params", "intermediate_values"):
        assert getattr(taken, attribute) == getattr(whole, attribute)
    for name in (SEEDS, TEST, ON_CONTEXTS):
        assert taken.user_attrs[name] == whole.user_attrs[name]


def test_finished_seeds_are_taken_and_the_others_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = (*ONE, "search.seeds=3")
    killed_before_the_record(worker(tmp_path, *overrides), monkeypatch, after=1)
    trained = counted_runs(monkeypatch)
    trials = finish(worker(tmp_path, *overrides))
    assert states(trials) == ["FAIL", "COMPLETE"]
    assert trained == [tmp_path / "trial-0001" / "seed-2"]
    assert sorted(path.name for path in (tmp_path / "trial-0001").iterdir()) == ["seed-0", "seed-1", "seed-2"]


def test_a_finished_final_run_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = (*ONE, "search.final_seeds=2")
    killed_before_the_record(worker(tmp_path, *overrides), monkeypatch, after=1)
    summary = read(tmp_path / "final-0000", "summary.csv").iloc[0]
    trained = counted_runs(monkeypatch)
    finish(worker(tmp_path, *overrides))
    assert trained == [tmp_path / "final-0001"]  # which had waited; the other is final-0002 now
    final = read(tmp_path, "final.csv").set_index("seed")
    assert final.loc[summary.seed].test_average_accuracy.tolist() == [summary.average_accuracy] * 2  # tuned, default
    assert not (tmp_path / "final-0000").exists()


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        (".hydra/config.yaml", "\nseed: 0", "\nseed: 1"),
        ("summary.csv", ",split_mnist,split,", ",split_mnist,permuted,"),
        ("summary.csv", ",finished,", ",interrupted,"),
        ("accuracy.csv", "run_id", "id"),
    ],
)
def test_what_is_not_exactly_the_run_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, old: str, new: str
) -> None:
    killed_before_the_record(worker(tmp_path, *ONE), monkeypatch)
    file = tmp_path / "trial-0000" / name
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new, 1))
    trained = counted_runs(monkeypatch)
    finish(worker(tmp_path, *ONE))
    assert trained == [tmp_path / "trial-0001"]
    assert file.is_file()
