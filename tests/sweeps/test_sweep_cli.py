"""Sweeps as they are typed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import builders
import pandas as pd
import pytest
from builders import ROOT
from conftest import Typed
from omegaconf import OmegaConf
from optuna.storages import RDBStorage
from optuna_dashboard import wsgi
from rich.console import Console
from test_cli import LOST, TINY, closed_pipe, clsweep, environment, without_run_id
from werkzeug.test import Client

from clsweep import results, running
from clsweep.errors import InputError
from clsweep.methods.loading import load
from clsweep.sweeps import command, files

ALONE = "search.workers=1"
SWEEP = ("--multirun", *TINY, "benchmark.iters=5", "search.final_seeds=1", ALONE)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A sweep of two methods, and what it printed."""
    folder = tmp_path_factory.mktemp("sweep")
    arguments = (*SWEEP, "regularizer=ewc,si", "search.n_trials=3", f"hydra.sweep.dir={folder}")
    printed, complained = StringIO(), StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed), redirect_stderr(complained):
        patch.chdir(ROOT)
        assert builders.command(patch, *arguments) == 0
    assert complained.getvalue() == ""
    return folder, printed.getvalue()


def studies(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob("*/trials.csv"))


def test_a_study_for_each_method(swept: tuple[Path, str]) -> None:
    folder, printed = swept
    names = [study.name.rpartition("-")[0] for study in studies(folder)]
    assert names == [f"split_mnist-{method}-contexts2-mnist_5k-iters5-mlp32" for method in ("ewc", "si")]
    for study in studies(folder):
        trials = pd.read_csv(study / "trials.csv")
        assert trials.state.isin(["COMPLETE", "PRUNED"]).sum() == 3
        assert len(pd.read_csv(study / "final.csv")) == 2
        assert f"{study.name}    3/3  trial 2 complete" in printed
    assert "test, tuned" in printed


def test_the_printed_command_runs_the_best_trial_again(swept: tuple[Path, str], typed: Typed, tmp_path: Path) -> None:
    folder, printed = swept
    study = studies(folder)[1]
    command = next(line for line in printed.splitlines() if "run it again" in line and "-si-" in line)
    arguments = command.split("python -m clsweep ")[1].split()
    done = typed(*arguments, f"hydra.run.dir={tmp_path / 'again'}")
    assert done.returncode == 0, done.stderr
    trials = pd.read_csv(study / "trials.csv")
    best = trials.sort_values("validation_average_accuracy", ascending=False, kind="stable").iloc[0]
    again, before = tmp_path / "again" / "accuracy.csv", ROOT / str(best.folder) / "accuracy.csv"
    assert without_run_id(again) == without_run_id(before)


def test_optunas_dashboard_opens_on_the_studies(swept: tuple[Path, str]) -> None:
    folder, _ = swept
    pages: Client = Client(wsgi(RDBStorage(url(folder))))
    with pages.get("/dashboard") as page:
        assert "Optuna" in page.get_data(as_text=True)
    summaries = json.loads(pages.get("/api/studies").get_data())["study_summaries"]
    ids = {one["study_name"]: one["study_id"] for one in summaries}
    study = studies(folder)[1]
    trials = json.loads(pages.get(f"/api/studies/{ids[study.name]}").get_data())["trials"]
    written = pd.read_csv(study / "trials.csv")
    for shown, row in zip(trials, written.to_dict("records"), strict=True):
        curve = [one["value"] for one in shown["intermediate_values"]]
        expected = [row[name] for name in ("validation_after_1", "validation_after_2") if not pd.isna(row[name])]
        assert curve == pytest.approx(expected)


def test_the_results_of_a_sweep_are_read_again(swept: tuple[Path, str]) -> None:
    folder, _ = swept
    found = results.load(folder)
    assert found.problems == []
    assert set(found.studies["name"]) == {study.name for study in studies(folder)}
    roles = found.runs.groupby("role").size().to_dict()
    assert roles == {"final": found.finals["folder"].nunique(), "trial": len(found.trials)}
    finals = found.runs[found.runs["role"] == "final"].set_index("folder")["average_accuracy"]
    for row in found.finals.to_dict("records"):
        assert finals[row["folder"]] == pytest.approx(row["test_average_accuracy"])


def test_the_first_context_is_trained_once_and_nothing_else_changes(
    swept: tuple[Path, str], tmp_path: Path, typed: Typed
) -> None:
    folder, _ = swept
    runs = results.load(folder).runs
    trained = runs[runs["shared_seconds"] == 0].groupby(["seed", "validation_fraction"]).size()
    assert trained.to_dict() == {(0, 0.1): 1, (1000, 0.0): 1}  # of trials, and of final runs
    assert len(runs) >= 8
    assert not (folder / "first_contexts").exists()
    alone = ("search.share_first_context=false", f"hydra.sweep.dir={tmp_path}")
    assert typed(*SWEEP, "regularizer=ewc,si", "search.n_trials=3", *alone).returncode == 0
    for path in sorted(tmp_path.rglob("accuracy.csv")):
        assert without_run_id(path) == without_run_id(folder / path.relative_to(tmp_path)), path
    assert (results.load(tmp_path).runs["shared_seconds"] == 0).all()


def test_the_same_command_continues_its_study(swept: tuple[Path, str]) -> None:
    folder, _ = swept
    study = studies(folder)[0]
    before = pd.read_csv(study / "trials.csv")
    places = (f"hydra.sweep.dir={study}", f"search.storage={url(folder)}")
    for name in ("first_contexts/.0a.pt.0000000b.partial", ".trials.csv.0000000c.partial"):  # of a killed process
        (study / name).parent.mkdir(exist_ok=True)
        (study / name).write_bytes(b"PK")
        os.utime(study / name, (0, 0))
    with closed_pipe() as unread:
        done = clsweep(*SWEEP, "regularizer=ewc", "search.n_trials=4", *places, stdout=unread)
    assert (done.returncode, done.stderr) == (0, f"clsweep: {LOST}")
    assert not (study / "first_contexts").exists()
    assert list(study.rglob("*.partial")) == []
    after = pd.read_csv(study / "trials.csv")
    assert len(after) == 4
    assert after.head(3).equals(before)


def url(folder: Path) -> str:
    return f"sqlite:///{folder / 'studies.db'}"


def test_a_folder_in_which_another_study_is_at_work_is_refused(tmp_path: Path, typed: Typed) -> None:
    folder = tmp_path / "sweep"
    with running.together(folder, "mine", "journal:mine.log"):
        done = typed(*SWEEP, "regularizer=si", f"hydra.sweep.dir={folder}")
    assert done.returncode == 2
    assert f"clsweep: hydra.sweep.dir={folder}: a sweep of mine is at work there" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_study_is_the_same_from_whatever_folder_it_is_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entered = []

    @contextmanager
    def together(*place: object) -> Iterator[None]:
        entered.append(place)
        yield

    monkeypatch.setattr(running, "together", together)
    monkeypatch.setattr(command, "_work", lambda *_: [])
    storage = "postgresql://me:hunter2@host/db"
    for folder, typed in ((tmp_path, "sweep"), (tmp_path.parent, f"{tmp_path.name}/sweep")):
        monkeypatch.chdir(folder)
        command.sweep(command.read(ONLINE, Path(typed)), Console(quiet=True))
    assert len(set(entered)) == 1
    monkeypatch.setattr(files, "refuse_foreign", lambda *_: None)  # which would look into the storage
    command.sweep(command.read([*ONLINE, f"search.storage={storage}"], tmp_path), Console(quiet=True))
    assert "hunter2" not in repr(entered)


def test_a_dry_run_says_what_would_happen_and_leaves_nothing(tmp_path: Path, typed: Typed) -> None:
    folder = tmp_path / "sweep"
    done = typed(*SWEEP, "regularizer=online_ewc", "search.dry_run=true", f"hydra.sweep.dir={folder}")
    assert done.returncode == 0, done.stderr
    for words in (
        "0 of 40 trials are finished",
        "gamma interval(0.05, 1)",
        "reg_strength=6.8e+04",
        "gamma=0.54",
        "about",
    ):
        assert words in done.stdout
    assert not folder.exists()


def test_a_dry_run_says_which_budget_ends_the_search(tmp_path: Path, typed: Typed) -> None:
    dry = ("regularizer=si", "search.dry_run=true", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    done = typed(*SWEEP, *dry, "search.timeout=1e-9")
    assert done.returncode == 0, done.stderr
    assert "search     1 trials of 1 seed(s), about" in done.stdout
    spent = "time       0 of 0 s are spent (search.timeout=1e-09), which ends the search 39 trials early"
    assert spent in done.stdout.splitlines()
    done = typed(*SWEEP, *dry, "search.timeout=7200000")
    assert "search     40 trials of 1 seed(s), about" in done.stdout
    assert "0:00 of 2000:00 h are spent (search.timeout=7.2e+06), which is not reached" in done.stdout


@pytest.mark.parametrize(
    ("searched", "first"),
    [
        ("choice(1e-5,2e-5)", "reg_strength=1e-05, as typed; the default values (reg_strength="),
        ("interval(1e-5,2e-5)", "what the sampler proposes; the default values (reg_strength="),
    ],
)
def test_a_dry_run_says_what_is_tried_first_where_the_default_is_not_searched(
    searched: str, first: str, tmp_path: Path, typed: Typed
) -> None:
    place = ("search.dry_run=true", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    done = typed(*SWEEP, "regularizer=ewc", f"regularizer.reg_strength={searched}", *place)
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("first "))
    assert line.removeprefix("first      ").startswith(first)
    assert line.endswith(") lie outside of what is searched, and are not tried")


@pytest.mark.slow
def test_the_search_ends_with_its_time_and_goes_on_with_more(tmp_path: Path, typed: Typed) -> None:
    command = (*SWEEP, "regularizer=si", f"hydra.sweep.dir={tmp_path}")
    done = typed(*command, "search.timeout=0.001")
    assert done.returncode == 0, done.stderr
    assert pd.read_csv(tmp_path / "trials.csv").state.tolist() == ["COMPLETE"]  # which ran when it was spent
    assert len(pd.read_csv(tmp_path / "final.csv")) == 2
    assert " of 0 s spent" in next(line for line in done.stdout.splitlines() if "trial 0 complete" in line)
    assert "1 of 40 trials finished in " in done.stdout
    again = typed(*command, "search.timeout=0.001")
    assert again.returncode == 0, again.stderr
    assert len(pd.read_csv(tmp_path / "trials.csv")) == 1
    more = typed(*command, "search.timeout=3600", "search.n_trials=3")
    assert more.returncode == 0, more.stderr
    assert pd.read_csv(tmp_path / "trials.csv").state.isin(["COMPLETE", "PRUNED"]).sum() == 3
    assert "3 of 3 trials finished in 0:00 of 1:00 h, " in more.stdout


def test_a_sweep_says_once_what_the_methods_say_of_a_value(tmp_path: Path) -> None:
    chosen = ["benchmark=split_mnist", "regularizer=ewc,si,online_ewc"]
    assert command.read([*chosen, "regularizer.fisher.labels=sampled"], tmp_path).notes == []
    (note,) = command.read([*chosen, "regularizer.fisher.labels=batched"], tmp_path).notes
    assert "isn't the Fisher information" in note


def test_a_sweep_says_that_no_method_has_a_value(tmp_path: Path) -> None:
    typed = ["benchmark=split_mnist", "regularizer.gamma=0.2"]
    assert command.read([*typed, "regularizer=si,online_ewc"], tmp_path).notes == []
    for methods in ("si,ewc", "ewc"):
        notes = command.read([*typed, f"regularizer={methods}"], tmp_path).notes
        assert notes == ["regularizer.gamma=0.2: none of the chosen methods has gamma"]


@pytest.mark.parametrize("key", ["hydra.run.dir", "hydra.sweep.subdir"])
def test_a_folder_that_a_sweep_does_not_use_is_refused(key: str, tmp_path: Path, typed: Typed) -> None:
    done = typed(*SWEEP, "regularizer=ewc", f"{key}=here", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    assert (done.returncode, f"{key}=here: has no effect on a sweep" in done.stderr) == (2, True)
    assert not (tmp_path / "sweep").exists()


@pytest.mark.slow
def test_finished_runs_without_the_network_that_is_asked_for_are_counted(tmp_path: Path, typed: Typed) -> None:
    arguments = (*SWEEP, "regularizer=si", "search.n_trials=1", f"hydra.sweep.dir={tmp_path}")
    assert "finished without" not in typed(*arguments).stdout
    runs = len(list(tmp_path.glob("*/summary.csv")))
    again = typed(*arguments, "save_model=true")
    assert (again.returncode, f"finished without save_model=true, and left so: {runs} runs" in again.stdout) == (
        0,
        True,
    )


@pytest.mark.slow
def test_a_key_that_some_of_the_methods_lack_is_for_the_others(tmp_path: Path, typed: Typed) -> None:
    for name in ("mine", "yours"):
        text = (ROOT / "custom_regularization.py").read_text()
        (tmp_path / f"{name}.py").write_text(f"{text}# {name}\n")
    files = f"regularizer.file={tmp_path}/mine.py,{tmp_path}/yours.py"
    chosen = ("regularizer=si,custom,ewc", files, "regularizer.fisher.examples=9", "search.dry_run=true")
    done = typed(*SWEEP, *chosen)
    assert done.returncode == 0, done.stderr
    methods = [line.split(maxsplit=1)[1] for line in done.stdout.splitlines() if line.startswith("method ")]
    assert methods == ["si", "mine (mine.py)", "yours (yours.py)", "ewc"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ("regularizer.gamma=interval(0.5,2)", "regularizer=online_ewc"),
            "regularizer.gamma=2.0: expected a number above 0",
        ),
        (("regularizer.epsilon=interval(0.1,1)", "regularizer=ewc"), "none of the chosen methods uses epsilon"),
        (
            ("benchmark.contexts=int(interval(2,3))",),
            "benchmark.contexts decides what a trial is, or what it is judged by, so that its values can't be compared",
        ),
        (
            ("optimizer.lr=interval(0,1)",),
            "optimizer.lr=interval(0,1): benchmark.lr=0.0: expected a finite",
        ),
        (("benchmark.batch_size=interval(8,16)",), "is searched in integers; expected int(interval(low, high))."),
        (
            ("benchmark.lr=tag(log,interval(1e-4,1e-2))", "optimizer.lr=tag(log,interval(1e-3,1e-2))"),
            "optimizer.lr=tag(log,interval(1e-3,1e-2)): contradicts benchmark.lr=tag(log,interval(1e-4,1e-2)); "
            "expected one of them.",
        ),
        (
            ("optimizer._target_=tag(search,choice(torch.optim.Adam,torch.optim.SGD))",),
            "a _target_ isn't searched; expected optimizer._target_=a,b for a study of each.",
        ),
        (
            ("regularizer=ewc,my_ok.py",),
            ", vcl, or regularizer=custom regularizer.file=my_ok.py for a file of one's own.",
        ),
        (("regularizer=ewc,joint",), ", vcl, or stream=joint for joint training."),
        (("search.pruner=median,null",), "two of the swept values make the same study"),
        (("+benchmark=split_mnist,perm_mnist", "benchmark.itrs=3"), "itrs"),
        (("regularizer=si,mas", "regularizer.file=mine.py"), "regularizer.file: not a key of the chosen regularizer"),
        (("regularizer=si,mas", "regularizer.epsilom=1"), "did you mean regularizer.epsilon?"),
        (("regularizer=si,mass", "regularizer.fisher.labels=exact"), "regularizer=mass: expected one of"),
        (("search.timeout=0",), "search.timeout=0.0: expected a number of seconds above 0, or null."),
        (("search.timeout=-5",), "search.timeout=-5.0: expected a number of seconds above 0, or null."),
        (("search.timeout=nan",), "search.timeout=nan: expected a number of seconds above 0, or null."),
        (("search.timeout=1h",), "search.timeout=1h: expected a number, or null."),
        (("search.ntrials=3",), "search.ntrials: no such key here; did you mean search.n_trials?"),
        (("search.storage=mysql://me:secret@localhost/db",), "search.storage=mysql://me:***@localhost/db: its driver"),
        (("dataset=mnist", "dataset.root=nowhere"), "dataset=mnist"),
    ],
)
def test_wrong_input_is_one_sentence(overrides: tuple[str, ...], message: str, tmp_path: Path, typed: Typed) -> None:
    done = typed(*SWEEP, f"hydra.sweep.dir={tmp_path / 'sweep'}", *overrides)
    assert done.returncode == 2, done
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (("optimizer.lr=0.1", "benchmark.lr=0.5"), "benchmark.lr=0.5: is another name for optimizer.lr, which is 0.1"),
        (("budget=quick", "benchmark.epochs=1"), "budget=quick: contradicts benchmark.epochs=1; expected one of them."),
        (
            ("resume=false",),
            "resume=false: a sweep always goes on with the trials that are there; expected resume=true, and another "
            "hydra.sweep.dir=FOLDER to start over.",
        ),
        (
            ("validation_fraction=0",),
            "validation_fraction=0: leaves nothing to judge a trial by; expected a number above 0 and below 1, or it "
            "left out for 0.1.",
        ),
    ],
)
def test_what_would_have_no_effect_is_refused_from_python_too(typed: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError) as caught:
        command.read(["+benchmark=split_mnist", "dataset=mnist_5k", "regularizer=ewc", *typed], Path("sweep"))
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("follows", "searched"),
    [
        ("regularizer.gamma=${optimizer.lr}", "optimizer.lr=interval(0.001,0.5)"),
        ("regularizer.gamma=${benchmark.lr}", "optimizer.lr=interval(0.001,0.5)"),
        ("regularizer.gamma=${optimizer.lr}", "benchmark.lr=0.001,0.5"),
    ],
)
def test_a_value_that_refers_to_a_searched_one_is_refused(follows: str, searched: str, tmp_path: Path) -> None:
    chosen = ["+benchmark=split_mnist", "dataset=mnist_5k", "regularizer=online_ewc", "device=cpu", follows]
    with pytest.raises(InputError) as caught:
        command.read([*chosen, searched.replace("=0.001,0.5", "=tag(search,choice(0.001,0.5))")], tmp_path)
    assert str(caught.value).startswith(f"{follows}: refers to a searched value, and would stay the same in all trials")
    assert command.read([*chosen, "optimizer.lr=0.1"], tmp_path).plans


@pytest.mark.parametrize("start", ["optimizer.lr=0.1", "benchmark.lr=0.1"])
def test_a_value_of_what_is_searched_is_where_the_search_starts(start: str, tmp_path: Path) -> None:
    chosen = ["+benchmark=split_mnist", "dataset=mnist_5k", "regularizer=ewc", "device=cpu", start]
    for key in ("optimizer.lr", "benchmark.lr"):
        (plan,) = command.read([*chosen, f"{key}=interval(0.001,0.5)"], tmp_path).plans
        assert plan.default["optimizer.lr"] == 0.1


def test_null_is_as_if_a_value_were_not_given(tmp_path: Path) -> None:
    chosen = ["+benchmark=split_mnist", "dataset=mnist_5k", "regularizer=online_ewc", "device=cpu"]
    plans = [
        command.read([*chosen, f"regularizer.{typed}"], tmp_path).plans[0]
        for typed in ("reg_strength=null", "reg_strength=3")
    ]
    assert [list(one.space) for one in plans] == [["reg_strength", "gamma"], ["gamma"]]


def test_a_whole_number_is_the_same_in_a_sweep_and_in_a_run(tmp_path: Path) -> None:
    file = tmp_path / "counting.py"
    text = (ROOT / "examples" / "my_method.py").read_text().partition("HYPERPARAMETERS")
    file.write_text(f"{text[0]}HYPERPARAMETERS = {{'times': {{'default': 2}}}}\n{text[2].partition(chr(10))[2]}")
    method = ["+benchmark=split_mnist", "dataset=mnist_5k", f"regularizer.file={file}", "device=cpu"]
    (plan,) = command.read([*method, "regularizer.times=1,2,3"], tmp_path).plans
    trial = load(plan.trial_config({"times": 3.0}, 0).regularizer).config.values["times"]
    assert (trial, type(trial)) == (3, int)


@pytest.mark.parametrize("there", ["trial-0000", "final-0000"])
def test_a_folder_with_another_studys_trials_is_refused(there: str, tmp_path: Path, typed: Typed) -> None:
    (tmp_path / there).mkdir()
    done = typed(*SWEEP, "regularizer=ewc", f"hydra.sweep.dir={tmp_path}")
    assert done.returncode == 2
    assert f"holds {there}, which sqlite:///" in done.stderr
    assert "it is another study's or was renamed, or its storage was lost" in done.stderr
    assert [one.name for one in tmp_path.iterdir()] == [there]


ONLINE = ["+benchmark=split_mnist", "dataset=mnist_5k", "regularizer=online_ewc", "device=cpu"]


@pytest.mark.parametrize(
    ("typed", "ranges"),
    [
        ((), {"reg_strength": "interval(1, 2)", "gamma": "interval(0.05, 1)"}),
        (("regularizer.reg_strength=interval(3,4)",), {"reg_strength": "interval(3,4)", "gamma": "interval(0.05, 1)"}),
        (("regularizer.reg_strength=3",), {"gamma": "interval(0.05, 1)"}),
    ],
)
def test_ranges_that_are_written_are_searched(typed: tuple[str, ...], ranges: dict[str, str], tmp_path: Path) -> None:
    """As in the `best.yaml` of a study, below what is typed."""
    written = "++search.space={reg_strength: 'interval(1, 2)'}"
    (plan,) = command.read([*ONLINE, written, *typed], tmp_path).plans
    assert plan.ranges == ranges


def test_a_written_range_of_what_the_method_lacks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"^regularizer\.epsilon: online_ewc has no such hyperparameter; expected one of"
    ):
        command.read([*ONLINE, "++search.space={epsilon: 'interval(1, 2)'}"], tmp_path)


def test_methods_may_be_chosen_by_a_pattern(tmp_path: Path) -> None:
    plans = command.read([*ONLINE[:2], "regularizer=glob(*ewc)", "device=cpu"], tmp_path).plans
    assert sorted(one.config.method for one in plans) == ["ewc", "kfac_ewc", "online_ewc"]


def test_jobs_on_several_machines_need_a_storage_for_them_and_a_number(tmp_path: Path) -> None:
    slurm = OmegaConf.create({"_target_": "submitit_launcher.SlurmLauncher"})
    journal = f"search.storage=journal:{tmp_path}/studies.log"
    for typed, said in (
        (["search.workers=2"], "search.storage=sqlite:///.*: hydra/launcher=submitit_slurm starts workers on several"),
        ([journal], "search.workers: how many jobs hydra/launcher=submitit_slurm submits can't be told from this"),
    ):
        with pytest.raises(InputError, match=f"^{said}"):
            command.sweep(command.read([*ONLINE, *typed], tmp_path), Console(quiet=True), None, slurm)
    dry = command.read([*ONLINE, journal, "search.workers=2", "search.dry_run=true"], tmp_path)
    assert command.sweep(dry, Console(quiet=True), None, slurm) == []


@pytest.mark.slow
def test_a_closed_terminal_keeps_what_is_finished(tmp_path: Path) -> None:
    arguments = [*SWEEP, "benchmark.iters=1000", "regularizer=ewc", f"hydra.sweep.dir={tmp_path}"]
    with subprocess.Popen(
        [sys.executable, "-m", "clsweep", *arguments], cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL
    ) as process:
        while not (tmp_path / "trial-0001").exists():
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGHUP)
        assert process.wait(timeout=60) == 130
    trials = pd.read_csv(tmp_path / "trials.csv")
    assert trials.state.tolist() == ["COMPLETE", "FAIL"]
    assert trials.reason.tolist()[1] == "interrupted"


@pytest.mark.slow
def test_a_sweep_that_is_killed_again_and_again_ends_with_its_budget(tmp_path: Path) -> None:
    arguments = [*SWEEP, "benchmark.iters=200", "regularizer=si", "search.n_trials=6", f"hydra.sweep.dir={tmp_path}"]
    for started in (1, 2, 4):
        with subprocess.Popen(
            [sys.executable, "-m", "clsweep", *arguments], cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL
        ) as process:
            while len(list(tmp_path.glob("trial-*"))) <= started:
                assert process.poll() is None
                time.sleep(0.05)
            process.kill()
    assert clsweep(*arguments).returncode == 0
    trials = pd.read_csv(tmp_path / "trials.csv")
    finished = trials[trials.state.isin(["COMPLETE", "PRUNED"])]
    assert len(finished) == 6
    assert not finished.duplicated(["reg_strength", "epsilon"]).any()
    lost = trials[trials.state == "FAIL"]
    assert len(lost) == 3
    assert lost.reg_strength.isin(finished.reg_strength).all()  # each was tried again


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher",
    [
        ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "search.workers=null"),
        ("hydra/launcher=submitit_local", "search.workers=2", "hydra.launcher.timeout_min=5"),
    ],
)
def test_workers_share_a_study(launcher: tuple[str, ...], tmp_path: Path) -> None:
    done = clsweep(*SWEEP, *launcher, "regularizer=ewc", "search.n_trials=8", f"hydra.sweep.dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    trials = pd.read_csv(tmp_path / "trials.csv")
    finished = trials[trials.state.isin(["COMPLETE", "PRUNED"])]
    assert len(finished) == 8
    assert not finished.duplicated("reg_strength").any()
