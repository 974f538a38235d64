"""What an earlier trial of the same point has trained, in whole or in part, isn't trained again."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import sweeping
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from sweeping import finish, random_images, worker

from clsweep import results
from clsweep.config import Config
from clsweep.data.context_cache import ContextCache
from clsweep.folders import run_in
from clsweep.results.metrics import Cell
from clsweep.sweeps import command as sweep_command
from clsweep.sweeps import monitor, owner, storage, taken
from clsweep.sweeps.marks import CARRIED, CONTINUES, ENDED, LOST, NOTES, REASON
from clsweep.sweeps.promotion import Promotion
from clsweep.sweeps.spent import own_seconds, seconds, spent
from clsweep.sweeps.status import status
from clsweep.sweeps.trial import ON_CONTEXTS, SEEDS, TEST, Noting, Reporter
from clsweep.sweeps.worker import StudyWorker
from clsweep.training.loop import Trainer
from clsweep.training.observers import Observer
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
    lose_running(study)


def lose_running(study: StudyWorker) -> None:
    """What another process does when it sees that this one has ended."""
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
        ("setting.json", '"seed": 0', '"seed": 1'),
        ("setting.json", '"regularizer.reg_strength"', '"regularizer.gamma"'),
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


class Trained:
    """What is trained: the values and seed of each run, and the numbers of its contexts, in order.

    Args:
        patch: takes effect until it is undone.
        until: how many contexts are trained before the process is killed; None: it lives.
    """

    def __init__(self, patch: pytest.MonkeyPatch, until: int | None = None) -> None:
        self.contexts: list[tuple[str, int, int]] = []
        learn = Trainer.learn
        current: list[Config] = []

        def noted(config: Config, *others: Any, **named: Any) -> Outcome:
            current.append(config)
            return run(config, *others, **named)

        def learned(trainer: Trainer, number: int) -> None:
            if len(self.contexts) == until:
                raise Killed
            values = dict(sorted(current[-1].regularizer.values.items()))
            self.contexts.append((str(values), current[-1].seed, number))
            learn(trainer, number)

        patch.setattr("clsweep.folders.run", noted)
        patch.setattr(Trainer, "learn", learned)


def killed_after(study: StudyWorker, patch: pytest.MonkeyPatch, contexts: int) -> list[tuple[str, int, int]]:
    """Work on until so many contexts are trained, and be killed in the next one, if there is one."""
    with patch.context() as patched:
        trained = Trained(patched, until=contexts)
        with suppress(Killed):
            finish(study)
    lose_running(study)
    return trained.contexts


def checkpoints(folder: Path) -> list[str]:
    """The runs that could go on."""
    return sorted({path.parent.parent.relative_to(folder).as_posix() for path in folder.rglob("checkpoints/*")})


def same_cells(one: Path, other: Path) -> bool:
    first, second = (pd.read_csv(folder / "accuracy.csv").drop(columns="run_id") for folder in (one, other))
    return first.equals(second)


@pytest.mark.parametrize("contexts", [2, 4])  # of the first seed, and of the second
def test_a_lost_trial_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, contexts: int) -> None:
    overrides = (*ONE, "search.seeds=2")
    whole = finish(worker(tmp_path / "whole", *overrides))[0]
    before = killed_after(worker(tmp_path / "killed", *overrides), monkeypatch, contexts)
    lost = worker(tmp_path / "killed", *overrides).ledger.trials()[0]
    assert len(lost.intermediate_values) == contexts
    trained = Trained(monkeypatch)
    study = worker(tmp_path / "killed", *overrides)
    trials = finish(study)
    assert states(trials) == ["FAIL", "COMPLETE"]
    assert len(before) + len(trained.contexts) == len({*before, *trained.contexts}) == 2 * 3
    for attribute in ("value", "params", "intermediate_values"):
        assert getattr(trials[1], attribute) == getattr(whole, attribute)
    for name in (SEEDS, TEST, ON_CONTEXTS):
        assert trials[1].user_attrs[name] == whole.user_attrs[name]
    for seed in ("seed-0", "seed-1"):
        assert same_cells(tmp_path / "killed" / "trial-0001" / seed, tmp_path / "whole" / "trial-0000" / seed)
    assert trials[1].user_attrs[CARRIED] > 0
    # The time of both counts once, up to the last context of the lost one.
    assert spent(trials) == pytest.approx(sum(seconds(one) for one in trials) - trials[1].user_attrs[CARRIED])
    assert own_seconds(trials[0]) >= trials[1].user_attrs[CARRIED] * 0.5
    assert checkpoints(tmp_path) == []
    assert results.load(tmp_path / "killed").problems == []


def test_an_interrupted_trial_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = worker(tmp_path, *ONE)

    def interrupt(self: Reporter, cells: Sequence[Cell]) -> None:
        if cells[0].after_context == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Reporter, "context_done", interrupt)
        with pytest.raises(KeyboardInterrupt):
            study.work_once()
    assert checkpoints(tmp_path) == ["trial-0000"]
    trained = Trained(monkeypatch)
    trials = finish(worker(tmp_path, *ONE))
    assert states(trials) == ["FAIL", "COMPLETE"]
    assert [number for *_, number in trained.contexts] == [2]
    assert sorted(trials[1].intermediate_values) == [1, 2, 3]


def test_a_final_run_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = (*ONE, "search.final_seeds=2")
    before = killed_after(worker(tmp_path, *overrides), monkeypatch, 5)
    assert checkpoints(tmp_path) == ["final-0000"]
    trained = Trained(monkeypatch)
    finish(worker(tmp_path, *overrides))
    assert len(before) + len(trained.contexts) == len({*before, *trained.contexts}) == 3 * 3
    assert checkpoints(tmp_path) == []


@pytest.mark.parametrize("role", ["trial", "final"])
def test_a_sweep_names_a_damaged_checkpoint_that_it_goes_on_without(
    role: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = (*ONE, "search.final_seeds=1")
    killed_after(worker(tmp_path, *overrides), monkeypatch, 2 if role == "trial" else 5)
    damaged = sorted((tmp_path / f"{role}-0000" / "checkpoints").glob("*"))[-1]
    damaged.write_bytes(damaged.read_bytes()[:-100])
    trained = Trained(monkeypatch)
    study = worker(tmp_path, *overrides)
    finish(study)
    assert [number for *_, number in trained.contexts][:2] == [1, 2]  # the second was learned, and is learned again
    lines = [line for line in monitor._events(study, owner.family(), set()).values() if "note" in line]
    ending = rf"{role}-0001/checkpoints/{damaged.name}: is damaged, .*; going on without it"
    assert len(lines) == 1
    assert re.search(ending, lines[0].partition("  note: ")[2])
    assert {"trial": "  trial 1 complete", "final": "  final run 1/1"}[role] in lines[0]


def test_a_note_on_the_method_is_kept_once(tmp_path: Path) -> None:
    study = worker(tmp_path, *ONE)
    claimed = [study.ledger.study.ask() for _ in range(2)]
    for trial in claimed:
        Noting(trial).note("a hook is left on the network")
        Noting(trial).note(f"trial {trial.number} is damaged")
    noted = [one.user_attrs.get(NOTES) for one in study.ledger.trials()]
    assert noted == [["a hook is left on the network", "trial 0 is damaged"], ["trial 1 is damaged"]]


def test_resume_false_starts_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed_after(worker(tmp_path, *ONE), monkeypatch, 2)
    trained = Trained(monkeypatch)
    trials = finish(worker(tmp_path, *ONE, "resume=false"))
    assert [number for *_, number in trained.contexts] == [0, 1, 2]
    assert CARRIED not in trials[1].user_attrs


def test_an_unfinished_run_of_another_setting_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed_after(worker(tmp_path, *ONE), monkeypatch, 2)
    file = tmp_path / "trial-0000" / "setting.json"
    file.write_text(file.read_text().replace('"lr": 0.001', '"lr": 0.01'))
    trained = Trained(monkeypatch)
    finish(worker(tmp_path, *ONE))
    assert [number for *_, number in trained.contexts] == [0, 1, 2]
    assert file.is_file()


HALVED = (
    "regularizer=mas",
    "search.final_seeds=0",
    "search.pruner=successive_halving",
    "search.pruner_options={reduction_factor: 2}",
)


def test_a_promoted_trial_trains_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = (*HALVED, "search.n_trials=6")
    study = worker(tmp_path / "halved", *overrides)
    with monkeypatch.context() as patch:
        trained = Trained(patch)
        trials = finish(study)
    promoted = [one for one in trials if CONTINUES in one.user_attrs]
    assert promoted
    assert len(trained.contexts) == len(set(trained.contexts))  # none of them twice
    now = status(trials)
    assert now.finished == 6
    assert len(trained.contexts) == 3 * len(now.complete) + 2 * len(now.pruned)
    for trial in promoted:
        folder = tmp_path / "halved" / f"trial-{trial.number:04d}"
        assert not (tmp_path / "halved" / f"trial-{trial.user_attrs[CONTINUES]:04d}").exists()
        run_in(
            tmp_path / f"{trial.number}",
            study.plan.trial_config(trial.params, 0),
            Observer(),
            ContextCache(random_images),
            None,
            rehearsed=True,
            part_of=None,
        )
        assert same_cells(folder, tmp_path / f"{trial.number}")
    stopped = [one for one in trials if one.state == TrialState.PRUNED]
    assert all(one.user_attrs[REASON].startswith("stopped at rung 1 of 1: validation accuracy 0.") for one in stopped)
    table = read(tmp_path / "halved")
    assert table.number.tolist() == [
        one.number for one in trials if one.number not in {p.user_attrs[CONTINUES] for p in promoted}
    ]
    assert len(table) == 6
    found = results.load(tmp_path / "halved")
    assert found.problems == []
    assert sorted(found.runs.folder) == sorted(found.trials.folder)
    assert checkpoints(tmp_path) == []


@pytest.mark.slow
def test_a_sweep_with_promotion_that_is_killed_in_every_second_context_trains_none_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = (*HALVED, "search.n_trials=6")
    trained: list[tuple[str, int, int]] = []
    while not (study := worker(tmp_path, *overrides)).is_done():
        trained += killed_after(study, monkeypatch, 2)
    trials = study.ledger.trials()
    assert len(trained) == len(set(trained))
    now = status(trials)
    assert now.finished == 6
    assert any(CONTINUES in one.user_attrs for one in now.marked)
    assert len(trained) == 3 * len(now.complete) + 2 * len(now.pruned)


def test_what_is_lost_at_a_rung_is_judged_there_by_whoever_takes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = (*HALVED, "search.n_trials=2")
    study = worker(tmp_path, *overrides)
    assert study.work_once()
    with monkeypatch.context() as patch:
        patch.setattr(Promotion, "prune", lambda _, study, trial: trial.last_step == 2 and _raise(Killed()))
        with pytest.raises(Killed):
            study.work_once()
    study.ledger._mark_lost(study.ledger.trials()[1], "its process ended")
    again = worker(tmp_path, *overrides)
    monkeypatch.setattr(Promotion, "prune", lambda _, study, trial: trial.last_step == 2)
    trained = Trained(monkeypatch)
    assert again.work_once()
    trial = again.ledger.trials()[2]
    assert (trial.state, trial.params) == (TrialState.PRUNED, again.ledger.trials()[1].params)
    assert sorted(trial.intermediate_values) == [1, 2]
    assert trained.contexts == []


def _raise(error: BaseException) -> bool:
    raise error


def test_who_was_taken_for_gone_leaves_the_trial_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = worker(tmp_path, *ONE)

    def taken_away(reporter: Reporter, *_: object) -> None:
        study.ledger._mark_lost(study.ledger.trials()[0], "its process ended")
        (tmp_path / "trial-0000").rename(tmp_path / "trial-0001")

    with monkeypatch.context() as patch:
        patch.setattr(Reporter, "context_done", taken_away)
        assert study.work_once()  # where it can write no more
    assert study.ledger.trials()[0].user_attrs[ENDED] == LOST


def test_who_was_taken_for_gone_leaves_the_checkpoints_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = worker(tmp_path, *ONE)
    report = Reporter._report

    def taken_away(reporter: Reporter, cells: Sequence[Cell], after: int) -> float:
        study.ledger._mark_lost(study.ledger.trials()[0], "its process ended")
        return report(reporter, cells, after)

    with monkeypatch.context() as patch:
        patch.setattr(Reporter, "_report", taken_away)
        assert study.work_once()
    assert study.ledger.trials()[0].user_attrs[ENDED] == LOST
    assert checkpoints(tmp_path) == ["trial-0000"]


def test_what_is_stopped_for_good_leaves_nothing_to_go_on_from(tmp_path: Path) -> None:
    prunes_all = ("search.pruner=threshold", "search.pruner_options={lower: 2, n_warmup_steps: 2}")
    overrides = ("regularizer=mas", "search.n_trials=3", "search.final_seeds=0")
    study = worker(tmp_path / "pruned", *overrides, *prunes_all)
    assert study.work_once()
    assert states(study.ledger.trials()) == ["PRUNED"]
    assert checkpoints(tmp_path) == []
    halved = worker(tmp_path / "halved", *overrides, "search.n_trials=6", "search.pruner=successive_halving")
    while not halved.is_done():
        assert halved.work_once()
        trials = [] if halved.ledger.is_complete() else halved.ledger.trials()
        behind = {one.number for one in halved.ledger.left_behind()}
        may_go_on = [one for one in trials if one.state == TrialState.PRUNED and one.number not in behind]
        assert checkpoints(tmp_path / "halved") == [f"trial-{one.number:04d}" for one in may_go_on]
    assert any(one.state == TrialState.PRUNED for one in halved.ledger.trials())
    assert checkpoints(tmp_path) == []
    kept = worker(tmp_path / "kept", *overrides, "search.pruner=successive_halving", "keep_checkpoints=true")
    finish(kept)
    assert checkpoints(tmp_path / "kept") == ["trial-0000", "trial-0001", "trial-0002"]


def test_a_sweep_that_was_killed_after_its_search_leaves_no_checkpoints(tmp_path: Path) -> None:
    overrides = ("regularizer=mas", "search.n_trials=3", "search.final_seeds=0", "search.pruner=successive_halving")
    finish(worker(tmp_path, *overrides, "keep_checkpoints=true"))
    assert checkpoints(tmp_path)
    worker(tmp_path, *overrides).tidy()  # as at the end of the same command
    assert checkpoints(tmp_path) == []


def test_folders_of_finished_runs_that_were_removed_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = worker(tmp_path, "regularizer=mas", "search.n_trials=1", "search.final_seeds=1", "search.pruner=null")
    finish(study)
    finals = study.finals()
    assert finals is not None
    trials = [*study.ledger.trials(), *finals.ledger.trials()]
    assert taken.removed(study.plan, trials) == []
    shutil.rmtree(study.plan.folder / "final-0000")
    assert taken.removed(study.plan, trials) == ["final-0000"]
    sweep_command._announce([study], "sqlite://", Console(width=200))
    assert (
        "removed from its folder: final-0000; the storage keeps the accuracy, and a report" in capsys.readouterr().out
    )
