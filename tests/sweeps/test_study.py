"""Whole studies in this process, on random images."""

from __future__ import annotations

import errno
import io
import logging
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
import sweeping
import yaml
from builders import image_data, refuse_writing, setting
from omegaconf import OmegaConf
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial, Trial, TrialState
from rich.console import Console
from sweeping import finish, plan, resolved, worker, worker_on

from clsweep import process, results
from clsweep.config import DatasetConfig
from clsweep.data.datasets import ImageData, LabelledImages
from clsweep.errors import InputError, MachineError
from clsweep.sweeps import storage
from clsweep.sweeps.continued import OnePerPoint
from clsweep.sweeps.marks import ENDED, FAILED, INTERRUPTED, LOST, REASON
from clsweep.sweeps.monitor import outcome, summary
from clsweep.sweeps.owner import BEAT
from clsweep.sweeps.plan import StudyPlan
from clsweep.sweeps.spent import seconds
from clsweep.sweeps.status import status

DIVERGES_WHEN_STRONG = """
import torch


def estimate_importance(model, dataset, prev_params, device):
    return {}


def compute_regularization_loss(model, importance_dict, prev_params_dict):
    return sum(p.sum() * 0 for p in model.parameters()) + (float("nan") if model.reg_strength > 1 else 0.0)


HYPERPARAMETERS = ("reg_strength",)
"""


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    while sweeping.opened:
        storage.close(sweeping.opened.pop())


def states(trials: list[FrozenTrial]) -> list[str]:
    return [trial.state.name for trial in trials]


def read(folder: Path, name: str = "trials.csv") -> pd.DataFrame:
    return pd.read_csv(folder / name)


def test_a_study_tries_the_good_values_first_and_ends_in_files(tmp_path: Path) -> None:
    study = worker(tmp_path, "regularizer=si", "search.n_trials=4", "search.final_seeds=2", "search.pruner=null")
    trials = finish(study)

    assert states(trials) == ["COMPLETE"] * 4
    assert trials[0].params == {"reg_strength": 10.0, "epsilon": 0.1}
    table = read(tmp_path)
    assert table.number.tolist() == [0, 1, 2, 3]
    for trial, (_, row) in zip(trials, table.iterrows(), strict=True):
        runs = tmp_path / f"trial-{trial.number:04d}"
        summary = pd.read_csv(runs / "summary.csv").iloc[0]
        assert trial.value == row.validation_average_accuracy == summary.validation_average_accuracy
        assert row.test_average_accuracy == summary.average_accuracy
        assert row.reg_strength == summary.reg_strength == trial.params["reg_strength"]
        cells = pd.read_csv(runs / "accuracy.csv").query("split == 'validation'")
        for after in (1, 2, 3):
            learned = cells[(cells.after_context == after) & (cells.context <= after)].accuracy.mean()
            assert row[f"validation_after_{after}"] == pytest.approx(learned, abs=1e-12)
            assert trial.intermediate_values[after] == pytest.approx(learned, abs=1e-12)
    final = read(tmp_path, "final.csv")
    best = max(trials, key=lambda trial: trial.value or 0)
    assert final.groupby("setting").size().to_dict() == {"default": 2, "tuned": 2}
    assert set(final[final.setting == "tuned"].reg_strength) == {best.params["reg_strength"]}
    for _, run in final.iterrows():
        summary = pd.read_csv(Path(str(run.folder)) / "summary.csv").iloc[0]
        assert summary.validation_fraction == 0
        assert (summary.seed, summary.average_accuracy) == (run.seed, run.test_average_accuracy)
    rerun = OmegaConf.load(tmp_path / "best.yaml")
    assert [one for one in rerun.defaults if isinstance(one, str)] == ["config", "_self_"]
    assert (rerun.seed, rerun.validation_fraction) == (0, 0.3)
    assert {name: rerun.regularizer[name] for name in best.params} == best.params


def test_integers_are_searched_and_written_as_integers(tmp_path: Path) -> None:
    integers = {"reg_strength": "int(interval(1, 3))"}
    trials = finish(worker(tmp_path, "regularizer=ewc", "search.final_seeds=1", "search.pruner=null", space=integers))
    assert sorted(trial.params["reg_strength"] for trial in trials) == [1, 2, 3]  # and not forty
    table = read(tmp_path)
    summaries = [pd.read_csv(folder / "summary.csv").reg_strength[0] for folder in sorted(tmp_path.glob("trial-*"))]
    assert table.reg_strength.tolist() == summaries == [trial.params["reg_strength"] for trial in trials]
    best = max(trials, key=lambda trial: trial.value or 0).params["reg_strength"]
    assert OmegaConf.load(tmp_path / "best.yaml").regularizer.reg_strength == best
    assert read(tmp_path, "final.csv").query("setting == 'tuned'").reg_strength.tolist() == [best]


@pytest.mark.slow
def test_any_key_is_searched_and_written_by_its_name(tmp_path: Path) -> None:
    choices = {"network.hidden": "tag(search, choice([9], [8,8]))", "optimizer.lr": "tag(search, choice(1e-3, 1e-2))"}
    config = plan(tmp_path, "regularizer=ewc", "search.final_seeds=1", "search.pruner=null").config
    study = worker_on(StudyPlan(replace(config, search=replace(config.search, space=choices)), tmp_path))
    trials = finish(study)
    points = {(trial.params["network.hidden"], trial.params["optimizer.lr"]) for trial in trials}
    assert points == {(hidden, lr) for hidden in ("[9]", "[8,8]") for lr in (1e-3, 1e-2)}
    table = read(tmp_path)
    assert list(table.columns[4:9]) == ["reg_strength", "gamma", "epsilon", "network.hidden", "optimizer.lr"]
    assert set(table.reg_strength) == {4.1e5}  # what is not searched
    for _, row in table.iterrows():
        summary = pd.read_csv(tmp_path / Path(str(row.folder)).name / "summary.csv").iloc[0]
        widths = str(row["network.hidden"]).strip("[]").replace(",", " ")
        assert (summary.lr, summary.network) == (row["optimizer.lr"], f"mlp {widths}")
    best = max(trials, key=lambda trial: trial.value or 0).params
    rerun = OmegaConf.load(tmp_path / "best.yaml")
    assert rerun.network.hidden == [int(one) for one in best["network.hidden"].strip("[]").split(",")]
    assert rerun.benchmark.lr == best["optimizer.lr"]
    final = read(tmp_path, "final.csv")
    assert final["network.hidden"].tolist() == [best["network.hidden"], "[8]"]  # the default, which no trial had
    found = results.load(tmp_path)
    assert found.problems == []
    assert (
        yaml.safe_load(found.studies["space"].iloc[0]) == choices
        if isinstance(found.studies["space"].iloc[0], str)
        else found.studies["space"].iloc[0] == choices
    )


def test_what_is_there_counts_towards_the_budget(tmp_path: Path) -> None:
    overrides = ("regularizer=mas", "search.final_seeds=0", "search.pruner=null")
    first = finish(worker(tmp_path, *overrides, "search.n_trials=3"))
    again = finish(worker(tmp_path, *overrides, "search.n_trials=5"))
    assert len(again) == 5
    assert [trial.value for trial in again[:3]] == [trial.value for trial in first]
    assert len({trial.params["reg_strength"] for trial in again}) == 5
    assert finish(worker(tmp_path, *overrides, "search.n_trials=5"))[-1].number == 4


def easy_images(_: DatasetConfig) -> ImageData:
    """Six classes, each a brighter pixel of its own: learned at once, and forgotten without a penalty."""
    data = image_data(6, train_per_class=20, test_per_class=7)
    for part in (data.train, data.test):
        part.images[:] //= 8
        part.images.flatten(1)[range(len(part.labels)), part.labels] = 255
    return data


def scrambled(config: DatasetConfig) -> ImageData:
    """The same training images, other test labels."""
    data = easy_images(config)
    return ImageData(data.train, LabelledImages(data.test.images, data.test.labels.roll(1)), data.n_classes)


EASY = ("regularizer=l2", "benchmark.iters=60", "benchmark.lr=0.01", "search.final_seeds=0")


def test_neither_sampler_nor_pruner_reads_test_accuracies(tmp_path: Path) -> None:
    startup = ("search.sampler_options={n_startup_trials: 3}", "search.pruner_options={n_startup_trials: 2}")
    overrides = (*EASY, "search.n_trials=8", *startup)
    one = finish(worker(tmp_path / "one", *overrides, load=easy_images))
    other = finish(worker(tmp_path / "other", *overrides, load=scrambled))

    def seen(trials: list[FrozenTrial]) -> list[object]:
        return [(trial.params, trial.state, trial.value, trial.intermediate_values) for trial in trials]

    assert seen(one) == seen(other)
    assert {trial.state for trial in one} == {TrialState.COMPLETE, TrialState.PRUNED}
    tests = [read(tmp_path / name).test_average_accuracy for name in ("one", "other")]
    assert not tests[0].equals(tests[1])


def test_a_folder_is_a_studys_while_its_first_trial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = worker(tmp_path, "regularizer=l2", "search.n_trials=2", "search.final_seeds=0")
    objective, seen = study._runner.objective, []

    def looking(trial: Trial) -> float:
        seen.append(read(tmp_path).state.tolist())
        return objective(trial)

    monkeypatch.setattr(study._runner, "objective", looking)
    finish(study)
    assert seen == [["RUNNING"], ["COMPLETE"]]


def test_failed_trials_are_recorded_and_the_study_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "strong.py"
    file.write_text(DIVERGES_WHEN_STRONG)
    study = worker(
        tmp_path / "sweep",
        f"regularizer.file={file}",
        "regularizer.reg_strength=2",
        "search.final_seeds=0",
        "search.pruner=null",
        space={"reg_strength": "choice(0.5, 2, 3, 0.25)"},
    )
    trials = finish(study)
    by_strength = {trial.params["reg_strength"]: trial for trial in trials}
    assert {strength: trial.state.name for strength, trial in by_strength.items()} == {
        0.5: "COMPLETE",
        0.25: "COMPLETE",
        2.0: "FAIL",
        3.0: "FAIL",
    }
    assert "returned nan" in by_strength[2.0].user_attrs[REASON]
    assert pd.read_csv(tmp_path / "sweep" / "trial-0000" / "summary.csv").status.item() == "failed"
    assert len(status(trials).failed) == 2


def test_any_text_that_a_method_raises_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "mine.py"
    raises = r'    raise ValueError("not \ud800 but \x1b[31m red\n")'
    file.write_text(DIVERGES_WHEN_STRONG.replace("    return {}", raises))
    study = worker(tmp_path / "sweep", f"regularizer.file={file}", "regularizer.reg_strength=1", space={})
    with monkeypatch.context() as patch:
        patch.setattr(logging.getLogger(), "handlers", [])  # pytest's own, whose reports can't hold such a text
        finish(study)
    what = r"ValueError: not \ud800 but \x1b[31m red"
    reason = f"{file}, line 6: estimate_importance raised {what} (the traceback is in the run's log)."
    assert read(tmp_path / "sweep").reason.tolist() == [reason]
    assert read(tmp_path / "sweep" / "trial-0000", "summary.csv").reason.tolist() == [reason]
    assert "ValueError: not \\ud800 but" in (tmp_path / "sweep" / "trial-0000" / "clsweep.log").read_text()
    out = Console(file=io.StringIO(), width=200)
    summary([outcome(study)], out)
    assert isinstance(out.file, io.StringIO)
    assert f"last failure     {reason}" in out.file.getvalue().encode().decode()  # as a terminal would have it


def test_the_best_setting_has_the_files_copy_while_there_is_one(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(DIVERGES_WHEN_STRONG)
    overrides = ("regularizer=custom", f"regularizer.file={file}", "regularizer.reg_strength=0.5")
    study = worker(tmp_path / "sweep", *overrides, "search.final_seeds=0", space={})
    finish(study)
    moved = worker((tmp_path / "sweep").rename(tmp_path / "moved"), *overrides, "search.final_seeds=0", space={})
    moved.write()

    def named() -> object:
        return yaml.safe_load((tmp_path / "moved" / "best.yaml").read_text())["regularizer"]["file"]

    assert named() == "${config_dir:}/trial-0000/mine.py"
    shutil.rmtree(tmp_path / "moved" / "trial-0000")
    moved.write()
    assert named() == str(file)


def test_too_many_failures_in_a_row_stop_the_study(tmp_path: Path) -> None:
    file = tmp_path / "strong.py"
    file.write_text(DIVERGES_WHEN_STRONG)
    study = worker(
        tmp_path / "sweep",
        f"regularizer.file={file}",
        "search.max_failures=3",
        space={"reg_strength": "interval(2, 3)"},
    )
    assert states(finish(study)) == ["FAIL"] * 3
    problem = study.problem()
    assert problem is not None
    assert problem.startswith(f"{study.plan.name}: 3 trials in a row failed, the last because ")
    assert not (tmp_path / "sweep" / "best.yaml").exists()


def test_a_study_whose_trials_all_failed_says_so(tmp_path: Path) -> None:
    file = tmp_path / "strong.py"
    file.write_text(DIVERGES_WHEN_STRONG)
    study = worker(tmp_path / "sweep", f"regularizer.file={file}", space={"reg_strength": "choice(2, 3)"})
    assert states(finish(study)) == ["FAIL"] * 2
    assert study.stopped() is None
    problem = study.problem()
    assert problem is not None
    assert problem.startswith(f"{study.plan.name}: all 2 trials failed, the last because ")


@pytest.mark.parametrize(
    ("searched", "pruned", "problem"),
    [
        (
            {"reg_strength": "interval(0, 0.5)"},
            2,
            "all 2 trials were pruned, so there is no best one; expected another search.pruner (null: nothing is "
            "pruned), and a search.n_trials above 2, since these trials count.",
        ),
        (
            {"reg_strength": "choice(0.5, 2)"},
            1,
            "no trial ran to its end (1 failed, 1 were pruned), the last because {file}: compute_regularization_loss "
            "returned nan; expected a finite number, so there is no best one; expected another search.pruner (null: "
            "nothing is pruned), and other values to be searched, since these trials count.",
        ),
    ],
)
def test_a_study_whose_trials_were_all_pruned_says_what_to_change(
    searched: dict[str, str], pruned: int, problem: str, tmp_path: Path
) -> None:
    file = tmp_path / "strong.py"
    file.write_text(DIVERGES_WHEN_STRONG)
    prunes_all = ("search.pruner=threshold", "search.pruner_options={lower: 2, n_warmup_steps: 2}")
    overrides = (f"regularizer.file={file}", "regularizer.reg_strength=0.5", "search.n_trials=2", *prunes_all)
    study = worker(tmp_path / "sweep", *overrides, space=searched)
    assert states(finish(study)).count("PRUNED") == pruned
    assert study.problem() == f"{study.plan.name}: {problem.format(file=file)}"


def test_a_time_that_is_spent_before_a_trial_is_complete_is_told(tmp_path: Path) -> None:
    prunes_all = ("search.pruner=threshold", "search.pruner_options={lower: 2, n_warmup_steps: 2}")
    study = worker(tmp_path, "regularizer=si", "search.timeout=1e-3", *prunes_all)
    assert states(finish(study)) == ["PRUNED"]
    assert study.problem() == (
        f"{study.plan.name}: search.timeout=0.001: was spent before a trial was complete (1 were pruned), so there is "
        "no best one; expected a longer time, with which the same command goes on."
    )
    longer = worker(tmp_path, "regularizer=si", "search.timeout=3600", "search.n_trials=1", "search.pruner=null")
    assert longer.plan.name == study.plan.name
    assert states(finish(longer)) == ["PRUNED"]  # which counts
    interrupted = worker(tmp_path / "other", "regularizer=si", "search.timeout=1e-3")
    trial = interrupted.ledger.claim()
    assert trial is not None
    interrupted.ledger.interrupt(trial)
    problem = interrupted.problem()
    assert problem is not None
    assert "was spent before a trial was complete, so there is no best one" in problem


def test_a_study_whose_trials_were_all_lost_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = worker(tmp_path, "regularizer=l2", space={"reg_strength": "choice(1)"})
    with monkeypatch.context() as patched:
        patched.setattr("clsweep.sweeps.owner.Owner.has_ended", lambda *_: True)
        for _ in range(5):  # after which it is given up: its values seem to be the reason
            assert study.ledger.claim() is not None
            study.ledger.reclaim()
    assert study.is_done()
    problem = study.problem()
    assert problem is not None
    assert problem.startswith(
        f"{study.plan.name}: all 5 trials were lost, the last because its process ended (process "
    )
    assert "what is killed 5 times without one more finished context" in problem
    assert "hydra.sweep.dir=" in problem


def test_final_runs_that_failed_are_told(tmp_path: Path) -> None:
    file = tmp_path / "small.py"
    file.write_text(
        DIVERGES_WHEN_STRONG.replace(
            "    return {}", "    if len(dataset) == 40:\n        raise MemoryError\n    return {}"
        )
    )
    study = worker(tmp_path / "sweep", f"regularizer.file={file}", "regularizer.reg_strength=0.5", space={})
    finish(study)
    assert study.problem() == (
        f"{study.plan.name}: 3 of 3 final runs failed, the last because {file}, line 7: estimate_importance raised "
        "MemoryError (the traceback is in the run's log)."
    )
    assert not (tmp_path / "sweep" / "final.csv").exists()
    assert (tmp_path / "sweep" / "best.yaml").exists()


def test_final_runs_that_were_killed_again_and_again_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = worker(tmp_path, "regularizer=none", "search.final_seeds=1", "search.pruner=null")
    assert study.work_once()  # the one trial
    finals = study.finals()
    assert finals is not None
    with monkeypatch.context() as patched:
        patched.setattr("clsweep.sweeps.owner.Owner.has_ended", lambda *_: True)
        for _ in range(5):
            assert finals.ledger.claim() is not None
            finals.ledger.reclaim()
    assert study.is_done()
    problem = study.problem()
    assert problem is not None
    assert problem.startswith(f"{study.plan.name}: 1 of 1 final runs failed, the last because its process ended")
    assert "what is killed 5 times without one more finished context" in problem


def test_the_storages_url_is_not_written_down(tmp_path: Path) -> None:
    study = worker(tmp_path, "regularizer=none", "search.storage=sqlite://secret", "search.final_seeds=1")
    finish(study)
    texts = [path.read_text() for path in tmp_path.rglob("*") if path.suffix in (".yaml", ".csv")]
    assert len(texts) > 5
    assert not any("secret" in text for text in texts)


def test_wrong_data_is_no_trials_fault(tmp_path: Path) -> None:
    def missing(_: DatasetConfig) -> ImageData:
        raise InputError("no data")

    study = worker(tmp_path, "regularizer=si", load=missing)
    with pytest.raises(InputError, match="no data"):
        study.work_once()
    assert study.ledger.trials() == []


ODD_WIDTHS = """
from torch import nn


class Net(nn.Sequential):
    def __init__(self, n_outputs, width=4):
        if width in (5, 7):
            raise ValueError(f"no {width} heads")
        super().__init__(nn.Flatten(), nn.Linear(16, width), nn.ReLU(), nn.Linear(width, n_outputs))
"""


def with_odd_widths(folder: Path, patch: pytest.MonkeyPatch, *overrides: str) -> StudyPlan:
    """A study of a network that can't have each of the widths that are searched."""
    (folder / "odd_widths.py").write_text(ODD_WIDTHS)
    patch.chdir(folder)
    patch.delitem(sys.modules, "odd_widths", raising=False)
    network = ("network._target_=odd_widths.Net", "network.width=4", "network=own")
    config = setting(*(one for one in sweeping.TINY if "hidden" not in one), "regularizer=none", *network, *overrides)
    space = {"network.width": "int(interval(4, 8))"}
    return StudyPlan(resolved(replace(config, search=replace(config.search, space=space))), folder / "study")


def test_a_point_that_cannot_be_trained_fails_and_the_study_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = worker_on(with_odd_widths(tmp_path, monkeypatch, "search.final_seeds=0", "search.pruner=null"))
    trials = finish(study)
    ended = {trial.params["network.width"]: trial.state.name for trial in trials}
    assert ended == {4: "COMPLETE", 5: "FAIL", 6: "COMPLETE", 7: "FAIL", 8: "COMPLETE"}
    table = read(tmp_path / "study").set_index("network.width")
    assert table.reason[5].startswith("network._target_=odd_widths.Net: ")
    assert "ValueError: no 5 heads" in table.reason[5]
    assert results.load(tmp_path / "study").problems == []
    assert study.problem() is None


def test_what_is_wrong_with_the_default_too_is_no_trials_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = worker_on(with_odd_widths(tmp_path, monkeypatch))
    assert study.work_once()
    monkeypatch.setattr("clsweep.training.run.networks.check", lambda *_: _raise(InputError("no network at all")))
    with pytest.raises(InputError, match="no network at all"):
        study.work_once()
    assert study.ledger.trials()[1].user_attrs[ENDED] == INTERRUPTED


def _raise(error: BaseException) -> None:
    raise error


WITH_A_MODE = """
def estimate_importance(model, dataset, prev_params, device):
    assert model.mode in ("a", "b") and model.flag in (True, False)
    return {}


def compute_regularization_loss(model, importance_dict, prev_params_dict):
    return sum((p**2).sum() for p in model.parameters()) * (0.1 if model.flag is True else 0.0)


HYPERPARAMETERS = {
    "mode": {"default": "a", "space": "choice(a,b)"},
    "flag": {"default": False, "space": "choice(true,false)"},
}
"""


def test_texts_and_truth_values_are_searched(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(WITH_A_MODE)
    folder = tmp_path / "study"
    study = worker(folder, f"regularizer.file={file}", "search.final_seeds=1", "search.pruner=null")
    trials = finish(study)
    points = {(trial.params["mode"], trial.params["flag"]) for trial in trials}
    assert points == {(mode, flag) for mode in ("a", "b") for flag in ("true", "false")}
    assert states(trials) == ["COMPLETE"] * 4
    assert trials[0].params == {"mode": "a", "flag": "false"}
    text = read(folder).astype(str)
    assert set(zip(text["mode"], text["flag"].str.lower(), strict=True)) == points
    best = max(trials, key=lambda trial: trial.value or 0).params
    rerun = OmegaConf.load(folder / "best.yaml").regularizer
    assert (rerun.mode, rerun.flag) == (best["mode"], best["flag"] == "true")
    found = results.load(folder)
    assert found.problems == []
    assert set(found.trials["flag"]) == {"true", "false"}
    assert sorted(found.runs.loc[found.runs["role"] == "trial", "mode"]) == ["a", "a", "b", "b"]


@pytest.mark.parametrize("raised", [KeyboardInterrupt(), ImportError("an import was interrupted")])
def test_an_interrupted_run_is_marked_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: BaseException
) -> None:
    overrides = ("regularizer=si", "search.n_trials=1", "search.final_seeds=0")
    study = worker(tmp_path, *overrides)

    def interrupt(*_: object) -> None:
        process._interrupts.came = True
        raise raised

    with monkeypatch.context() as patched:
        patched.setattr(process, "_interrupts", process._Interrupts())
        patched.setattr(optuna.trial.Trial, "report", interrupt)
        with pytest.raises(KeyboardInterrupt):
            study.work_once()
    assert read(tmp_path).reason.tolist() == ["interrupted"]
    trials = finish(worker(tmp_path, *overrides))
    assert states(trials) == ["FAIL", "COMPLETE"]
    assert trials[0].params == trials[1].params


@pytest.mark.parametrize(("times", "ended"), [(1, INTERRUPTED), (9, LOST)])
def test_a_trial_whose_end_the_storage_refuses_is_tried_again_by_the_same_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int, ended: str
) -> None:
    overrides = ("regularizer=si", "search.n_trials=1", "search.final_seeds=0")
    study = worker(tmp_path, *overrides)
    refusals = [StorageInternalError("database or disk is full")] * times
    tell = optuna.Study.tell

    def refused(*args: Any, **kwargs: Any) -> FrozenTrial:
        if refusals:
            raise refusals.pop()
        return tell(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(optuna.Study, "tell", refused)
        with pytest.raises(StorageInternalError, match="is full"):
            study.work_once()
    assert study.ledger.trials()[0].user_attrs[ENDED] == ended
    trials = finish(worker(tmp_path, *overrides))
    assert states(trials) == ["FAIL", "COMPLETE"]
    assert trials[0].params == trials[1].params


def test_a_trial_whose_loss_the_storage_refuses_too_is_lost_with_the_next_claim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = worker(tmp_path, "regularizer=si", "search.n_trials=1", "search.final_seeds=0")
    full = StorageInternalError("database or disk is full")
    with monkeypatch.context() as patch:

        def refused(*_: object, **__: object) -> None:
            patch.setattr("clsweep.sweeps.database.Database.set_trial_user_attr", lambda *_, **__: _raise(full))
            raise full

        patch.setattr(optuna.Study, "tell", refused)
        with pytest.raises(StorageInternalError, match="is full"):
            study.work_once()
    assert states(study.ledger.trials()) == ["RUNNING"]
    assert states(finish(study)) == ["FAIL", "COMPLETE"]


def test_a_trial_that_is_interrupted_while_it_is_claimed_is_lost_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another machine's workers would wait for it."""
    study = worker(tmp_path, "regularizer=si", "search.n_trials=1", "search.final_seeds=0")
    with monkeypatch.context() as patch:
        patch.setattr(OnePerPoint, "before_trial", lambda *_: _raise(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            study.work_once()
    trial = study.ledger.trials()[0]
    assert trial.user_attrs[ENDED] == LOST
    assert trial.user_attrs[REASON].startswith("its process runs it no more")
    assert states(finish(study)) == ["FAIL", "COMPLETE"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.ESTALE, errno.EMFILE])
def test_what_the_machine_refuses_is_no_trials_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    study = worker(tmp_path, "regularizer=mas", "search.n_trials=1", "search.final_seeds=0")

    with monkeypatch.context() as patch:
        refuse_writing(patch, lambda name: True, number)
        with pytest.raises(OSError, match=os.strerror(number)) as told:
            study.work_once()
    assert told.value.filename == str(tmp_path / "trials.csv")
    trial = study.ledger.trials()[0]
    assert trial.user_attrs[ENDED] == INTERRUPTED
    assert trial.user_attrs[REASON].startswith(
        f"{told.value.filename}: {os.strerror(number)}; what is finished is kept"
    )
    assert states(finish(study)) == ["FAIL", "COMPLETE"]
    assert study.ledger.trials()[1].params == trial.params
    assert list(tmp_path.rglob("*.partial")) == []


WRITES = """
import errno


def estimate_importance(model, dataset, prev_params, device):
    raise OSError(errno.{error}, "no", "notes.txt")


def compute_regularization_loss(model, importance_dict, prev_params_dict):
    return sum(p.sum() * 0 for p in model.parameters())


HYPERPARAMETERS = ()
"""


@pytest.mark.parametrize(("error", "ended"), [("ENOSPC", INTERRUPTED), ("ENOENT", FAILED)])
def test_a_file_of_the_methods_own_is_its_fault_but_a_full_disk_is_not(tmp_path: Path, error: str, ended: str) -> None:
    file = tmp_path / "method.py"
    file.write_text(WRITES.format(error=error))
    study = worker(tmp_path / "sweep", f"regularizer.file={file}", "search.final_seeds=0")
    if ended == FAILED:
        study.work_once()
    else:
        with pytest.raises(MachineError) as told:
            study.work_once()
        assert str(told.value) == (
            f"{file}, line 6: estimate_importance: notes.txt: no; what is finished is kept: when that is mended, run "
            "the same command again."
        )
    assert study.ledger.trials()[0].user_attrs[ENDED] == ended


def test_a_lost_trial_took_until_its_last_beat() -> None:
    trial = optuna.trial.create_trial(value=0.0)
    assert trial.datetime_start is not None
    trial.datetime_complete = trial.datetime_start + timedelta(hours=5)  # when it was noticed
    trial.user_attrs = {BEAT: trial.datetime_start.timestamp() + 60, ENDED: LOST}
    assert seconds(trial) == pytest.approx(60)
    trial.user_attrs[BEAT] = trial.datetime_start.timestamp() + 36000  # another machine's clock
    assert seconds(trial) == 5 * 3600
    trial.user_attrs[ENDED] = FAILED
    assert seconds(trial) == 5 * 3600


def test_several_seeds_are_averaged_and_a_hopeless_setting_is_stopped(tmp_path: Path) -> None:
    study = worker(
        tmp_path,
        *EASY,
        "regularizer.reg_strength=0.01",
        "search.seeds=3",
        "search.pruner_options={n_startup_trials: 100}",
        space={"reg_strength": "choice(0.01, 1e4)"},  # the second can't learn anything after the first context
        load=easy_images,
    )
    trials = finish(study)
    assert states(trials) == ["COMPLETE", "PRUNED"]
    values = [
        pd.read_csv(tmp_path / "trial-0000" / f"seed-{seed}" / "summary.csv").validation_average_accuracy.item()
        for seed in (0, 1, 2)
    ]
    assert trials[0].value == pytest.approx(np.mean(values), abs=1e-12)
    assert trials[0].intermediate_values[9] == pytest.approx(np.mean(values), abs=1e-12)
    assert trials[0].intermediate_values[6] == pytest.approx(np.mean(values[:2]), abs=1e-12)
    row = read(tmp_path).iloc[0]
    assert row.validation_average_accuracy == pytest.approx(np.mean(values), abs=1e-9)
    for seed, value in enumerate(values):
        assert row[f"seed_{seed}_validation_after_3"] == pytest.approx(value, abs=1e-9)
    assert trials[1].user_attrs[REASON] == "worse than trial 0 on 2 of 3 seeds"
    assert len(list((tmp_path / "trial-0001").glob("seed-*"))) == 2


def test_a_method_without_hyperparameters_is_run_once(tmp_path: Path) -> None:
    study = worker(tmp_path, "regularizer=none", "search.final_seeds=2")
    study.ledger.queue_points()
    assert states(finish(study)) == ["COMPLETE"]
    assert len(list(tmp_path.glob("final-*"))) == 2  # tuned and default are the same
