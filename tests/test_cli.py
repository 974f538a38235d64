from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import pandas as pd
import pytest
from builders import CONF, GROUPS, ROOT, command, setting
from conftest import Typed
from hydra.errors import MissingConfigException
from omegaconf import OmegaConf

from clsweep import __version__, results
from clsweep.cli import as_input_error
from clsweep.config import choices
from clsweep.errors import InputError, RunError
from clsweep.results.metrics import Cell
from clsweep.sweeps import launchers
from clsweep.training.display import Display
from clsweep.training.observers import Observer
from clsweep.training.run import run

TINY = (
    "+benchmark=split_mnist",
    "dataset=mnist_5k",
    "budget=smoke",
    "benchmark.contexts=2",
    "network.hidden=[32]",
    "device=cpu",
)
NO_DATA = ("+benchmark=split_mnist", "regularizer=ewc", "dataset=arrays", "dataset.train=a", "dataset.test=b")
BASIC = ("--multirun", "hydra/sweeper=basic", "benchmark=split_mnist", "hydra.sweep.dir=here")
FAILS_AFTER_THE_SECOND_CONTEXT = """
def estimate_importance(model, dataset, prev_params, device):
    model.calls = getattr(model, "calls", 0) + 1
    if model.calls == 2 and len(dataset) > 100:  # more than a rehearsal has
        raise RuntimeError("broken on purpose")
    return {}


def compute_regularization_loss(model, importance_dict, prev_params_dict):
    return sum(p.sum() * 0 for p in model.parameters())
"""
SLOW_IN_THE_SECOND_CONTEXT = """
import time


def estimate_importance(model, dataset, prev_params, device):
    return {}


def compute_regularization_loss(model, importance_dict, prev_params_dict):
    time.sleep(0.1)
    return sum(p.sum() * 0 for p in model.parameters())
"""


def environment() -> dict[str, str]:
    """One thread, as the runs are tiny; output as it comes; no switch of the developer's."""
    kept = {key: value for key, value in os.environ.items() if key not in ("CLSWEEP_TRACEBACK", "HYDRA_FULL_ERROR")}
    return kept | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}


def clsweep(
    *arguments: str, cwd: Path = ROOT, stdout: IO[str] | int = subprocess.PIPE
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "clsweep", *arguments],
        cwd=cwd,
        env=environment(),
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
        check=False,
    )


@contextmanager
def closed_pipe() -> Iterator[IO[str]]:
    """A standard output whose reader has gone."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        yield pipe


LOST = "standard output can't be written to (Broken pipe); going on without it.\n"


def summary(folder: Path) -> dict[str, object]:
    table = pd.read_csv(folder / "summary.csv")
    assert len(table) == 1
    return {str(key): value for key, value in table.iloc[0].items()}


def measured_after(folder: Path) -> list[int]:
    """The values of after_context for which every context was measured."""
    table = pd.read_csv(folder / "accuracy.csv")
    complete = table.groupby("after_context").context.agg(sorted)
    assert complete.map(lambda contexts: contexts == [1, 2]).all()
    return [int(after) for after in complete.index]


def without_run_id(file: Path) -> list[bytes]:
    return [line.split(b",", 1)[1] for line in file.read_bytes().splitlines(keepends=True)]


@dataclass(frozen=True)
class Finished:
    folder: Path
    process: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("runs") / "first"
    return Finished(folder, clsweep(*TINY, "regularizer=ewc", f"hydra.run.dir={folder}"))


def test_a_run_leaves_both_files_and_exit_code_0(finished: Finished) -> None:
    assert finished.process.returncode == 0, finished.process.stderr
    names = {path.name for path in finished.folder.iterdir()}
    assert names == {"accuracy.csv", "summary.csv", "accuracy_matrix.png", "curves.png", "setting.json", ".hydra"}
    assert measured_after(finished.folder) == [0, 1, 2]
    row = summary(finished.folder)
    assert row["status"] == "finished"
    assert (row["dataset"], row["contexts"], row["iters"], row["budget"]) == ("mnist_5k", 2, 20, "smoke")
    assert (row["n_train"], row["n_test"]) == (4 * 400, 4 * 100)
    assert row["run_id"] == pd.read_csv(finished.folder / "accuracy.csv").run_id.unique().item()


def test_the_metrics_are_those_of_the_accuracies(finished: Finished) -> None:
    table = pd.read_csv(finished.folder / "accuracy.csv").set_index(["after_context", "context"]).accuracy
    row = summary(finished.folder)
    assert row["average_accuracy"] == pytest.approx((table[2, 1] + table[2, 2]) / 2)
    assert row["learning_accuracy"] == pytest.approx((table[1, 1] + table[2, 2]) / 2)
    assert row["forgetting"] == pytest.approx(table[1, 1] - table[2, 1])
    assert row["backward_transfer"] == pytest.approx(table[2, 1] - table[1, 1])


def test_the_terminal_shows_the_setting_the_accuracies_and_where_the_files_are(finished: Finished) -> None:
    printed = finished.process.stdout
    row = summary(finished.folder)
    assert f"average accuracy  {row['average_accuracy']:.4f}" in printed
    assert f"forgetting        {row['forgetting']:.4f}" in printed
    assert str(finished.folder) in printed.splitlines()[-1]
    for part in ("split_mnist", "mnist_5k", "reg_strength=", "after context  1/2", "after context  2/2"):
        assert part in printed
    assert "epsilon" not in printed  # EWC has none
    assert "published" not in printed  # another data set, another budget
    assert "\x1b" not in printed


def test_the_same_command_gives_the_same_accuracies_byte_for_byte(finished: Finished, tmp_path: Path) -> None:
    """Whether or not anybody reads along."""
    with closed_pipe() as unread:
        arguments = [*TINY, "regularizer=ewc", "figures=false", f"hydra.run.dir={tmp_path / 'second'}"]
        process = clsweep(*arguments, stdout=unread)
    assert (process.returncode, process.stderr) == (0, f"clsweep: {LOST}")
    assert summary(tmp_path / "second")["status"] == "finished"
    assert list((tmp_path / "second").glob("*.png")) == []
    first, second = (folder / "accuracy.csv" for folder in (finished.folder, tmp_path / "second"))
    assert first.read_bytes() != second.read_bytes()  # the run_id
    assert without_run_id(first) == without_run_id(second)


def test_a_folder_with_results_is_not_written_to_again(finished: Finished) -> None:
    before = [(finished.folder / name).read_bytes() for name in ("accuracy.csv", "summary.csv")]
    with pytest.raises(InputError, match=r"another setting \(regularizer: ewc there, si now\); expected") as caught:
        run(setting(*TINY, "regularizer=si"), finished.folder)
    assert caught.value.exit_code == 2
    assert [(finished.folder / name).read_bytes() for name in ("accuracy.csv", "summary.csv")] == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], f"choose one with +benchmark=..., one of {choices('benchmark')}."),
        (["hydra.run.dir=here"], f"choose one with +benchmark=..., one of {choices('benchmark')}."),
        (["+benchmark=foo"], "foo"),
        (["+benchmark=split_mnist", "regularizer=foo"], "regularizer=foo"),
        (["+benchmark=split_mnist", "regularizer=ewc", "regularizer.gamma=0"], "regularizer.gamma=0"),
        (["+benchmark=split_mnist", "regularizer=ewc", "benchmark.contexts=6"], "benchmark.contexts=6"),
        (["+benchmark=split_mnist", "regularizer=ewc", "benchmark.iters=many"], "benchmark.iters"),
        (["+benchmark=split_mnist", "regularizer=ewc", "benchmark.itres=3"], "itres"),
        (["+benchmark=split_mnist", "regularizer=ewc", "~budget"], "budget"),
        (["+benchmark=split_mnist", "regularizer=[si,ewc]"], "--multirun regularizer=si,ewc"),
        (["benchmark=split_mnist", "regularizer=ewc", "network.hidden=400"], "network.hidden=[400]"),
        (["+benchmark=split_mnist", "regularizer=ewc", "search.n_trials=3"], "search.n_trials=3: is for a sweep"),
        (["+benchmark=split_mnist", "regularizer=ewc", "++search.n_trials=3"], "search.n_trials=3: is for a sweep"),
        (["benchmark=split_mnist", "=3"], "=3: expected KEY=VALUE, as in seed=1"),
        (["benchmark=split_mnist", "regularizer=si", "tuned=split_mnst/si"], "tuned=split_mnst/si: there is no such "),
        (
            ["--multirun", "benchmark=split_mnist", "regularizer=ewc", "search.worker=3", "hydra.sweep.dir=here"],
            "search.worker=3: is set by a sweep for its workers; expected the command without it.",
        ),
        (
            ["+benchmark=split_mnist", "regularizer=ewc", "hydra.sweep.dir=here"],
            "hydra.sweep.dir=here: has no effect on a single run; expected hydra.run.dir=FOLDER for its folder, or "
            "--multirun as well.",
        ),
        (
            ["+benchmark=split_mnist", "regularizer=ewc", "hydra/launcher=basic"],
            "hydra/launcher=basic: has no effect on a single run; expected --multirun as well.",
        ),
        ([*BASIC, "regularizer=ewc,si", "seed=0,a"], "seed=a: expected an integer."),
        ([*BASIC, "regularizer=ewc,sii"], "regularizer=sii: expected one of"),
        (
            [*BASIC, "regularizer=ewc", "optimizer.lr=interval(0.1,1)"],
            "optimizer.lr=interval(0.1,1): is a range, of which hydra/sweeper=basic can make no runs; expected single "
            "values, as in optimizer.lr=0.1,1, or",
        ),
        ([*NO_DATA], "dataset.train=a: no such file"),
        ([*NO_DATA, "hydra.run.dir=."], "dataset.train=a: no such file"),
    ],
)
def test_wrong_input_is_one_sentence_exit_code_2_and_leaves_nothing(
    arguments: list[str], said: str, tmp_path: Path, typed: Typed
) -> None:
    process = typed(*arguments, cwd=tmp_path)
    assert process.returncode == 2
    assert process.stderr.startswith("clsweep: ")
    assert said in process.stderr
    assert process.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_regularizer_that_raises_is_named_with_its_line_and_what_was_measured_is_kept(tmp_path: Path) -> None:
    method, folder = tmp_path / "method.py", tmp_path / "run"
    method.write_text(FAILS_AFTER_THE_SECOND_CONTEXT)
    line = 1 + FAILS_AFTER_THE_SECOND_CONTEXT.splitlines().index('        raise RuntimeError("broken on purpose")')
    process = clsweep(*TINY, f"regularizer.file={method}", f"hydra.run.dir={folder}")
    assert process.returncode == 1
    assert f"{method}, line {line}: estimate_importance raised RuntimeError: broken on purpose" in process.stderr
    assert process.stderr.count("\n") == 1
    row = summary(folder)
    assert row["status"] == "failed"
    assert "broken on purpose" in str(row["reason"])
    assert pd.isna(row["average_accuracy"])  # type: ignore[call-overload]
    assert measured_after(folder) == [0, 1]


def test_a_file_that_is_wrong_is_refused_before_training_and_leaves_no_folder(tmp_path: Path, typed: Typed) -> None:
    method, folder = tmp_path / "wrong.py", tmp_path / "run"
    method.write_text(FAILS_AFTER_THE_SECOND_CONTEXT.replace("return {}", "return []"))
    process = typed(*TINY, f"regularizer.file={method}", f"hydra.run.dir={folder}")
    assert process.returncode == 2
    assert process.stdout == ""
    assert process.stderr == (
        f"clsweep: {method}: estimate_importance returned a list; expected a dict of tensors by parameter name.\n"
    )
    assert not folder.exists()


def test_a_loss_that_is_not_finite_is_a_failed_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="NaN or infinite in context 1") as caught:
        run(setting(*TINY, "regularizer=none", "benchmark.lr=1e30"), tmp_path)
    assert caught.value.exit_code == 1
    row = summary(tmp_path)
    assert (row["status"], row["reason"]) == ("failed", str(caught.value))
    assert measured_after(tmp_path) == [0]


def test_ctrl_c_ends_cleanly_and_keeps_what_was_measured(tmp_path: Path) -> None:
    method, folder = tmp_path / "method.py", tmp_path / "run"
    method.write_text(SLOW_IN_THE_SECOND_CONTEXT)
    command = [sys.executable, "-m", "clsweep", *TINY, f"regularizer.file={method}", f"hydra.run.dir={folder}"]
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job would ignore it
    try:
        process = subprocess.Popen(
            [*command, "benchmark.iters=200"],
            cwd=ROOT,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        signal.signal(signal.SIGINT, inherited)
    with process:
        assert process.stdout is not None
        assert any("after context  1" in line for line in process.stdout)
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        try:
            printed, complained = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert complained == "clsweep: interrupted.\n"
    files = f"files             {folder}/summary.csv, accuracy.csv: what was measured\n"
    assert printed.endswith(f"{files}to go on          the same command with hydra.run.dir={folder}\n")
    assert "interrupted" not in printed  # once is enough
    row = summary(folder)
    assert row["status"] == "interrupted"
    assert pd.isna(row["average_accuracy"])  # type: ignore[call-overload]
    assert measured_after(folder) == [0, 1]


def test_help_shows_every_group_and_choice() -> None:
    process = clsweep("--help")
    assert process.returncode == 0
    lines = process.stdout.splitlines()
    for group in GROUPS:
        choices = ", ".join(sorted(path.stem for path in (CONF / group).glob("*.yaml")))
        assert f"{group}: {choices}" in lines
    assert " +benchmark=" in process.stdout
    assert "regularizer.reg_strength" in process.stdout


def test_the_command_line_does_not_import_torch() -> None:
    question = "import sys, clsweep.cli, clsweep.config; print({'torch', 'torchvision', 'pandas'} & set(sys.modules))"
    process = subprocess.run([sys.executable, "-c", question], capture_output=True, text=True, timeout=60, check=True)
    assert process.stdout == "set()\n"


def test_a_used_folder_is_refused_before_hydra_writes_into_it(finished: Finished, typed: Typed) -> None:
    setting_before = (finished.folder / ".hydra" / "overrides.yaml").read_bytes()
    process = typed(*TINY, "regularizer=si", f"hydra.run.dir={finished.folder}")
    assert process.returncode == 2
    assert "holds a run of another setting (regularizer: ewc there, si now)" in process.stderr
    assert (finished.folder / ".hydra" / "overrides.yaml").read_bytes() == setting_before


@pytest.mark.parametrize("place", ["file/run", "locked", "locked/run"])
@pytest.mark.parametrize(("key", "more"), [("run", []), ("sweep", ["--multirun", "hydra/sweeper=basic"])])
def test_a_folder_that_cannot_be_made_or_written_to_is_named(
    place: str,
    key: str,
    more: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "locked").mkdir()

    def locked(**_: object) -> None:
        raise OSError(errno.EACCES, "as the system says")

    monkeypatch.setattr("tempfile.TemporaryFile", locked)  # the administrator may write everywhere
    with pytest.raises(SystemExit) as caught:
        command(monkeypatch, *more, *TINY, "regularizer=none", f"hydra.{key}.dir={tmp_path / place}")
    assert caught.value.code == 2
    assert capsys.readouterr().err == (
        f"clsweep: hydra.{key}.dir={tmp_path / place}: as the system says; expected a folder that can be made and "
        "written to.\n"
    )
    assert sorted(one.name for one in tmp_path.iterdir()) == ["file", "locked"]
    assert list((tmp_path / "locked").iterdir()) == []


@pytest.mark.parametrize(
    ("launcher", "said"),
    [
        (
            {"_target_": "joblib", "n_jobs": 0},
            "hydra.launcher.n_jobs=0: expected 1 or more processes, or -1 for one on each core.",
        ),
        (
            {"_target_": "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher"},
            "hydra/launcher=submitit_slurm: there is no Slurm on this machine (no srun); expected a machine of the "
            "cluster, or search.workers=N for workers on this one.",
        ),
    ],
)
def test_a_launcher_that_can_start_nothing_is_refused(launcher: dict[str, object], said: str) -> None:
    with pytest.raises(InputError) as caught:
        launchers.check(OmegaConf.create(launcher))
    assert str(caught.value) == said


@pytest.mark.parametrize(
    ("launcher", "package"), [("joblib", "hydra-joblib-launcher"), ("submitit_slurm", "hydra-submitit-launcher")]
)
def test_a_launcher_that_is_not_installed_names_the_package(launcher: str, package: str) -> None:
    file = f"hydra/launcher/{launcher}"
    said = as_input_error(MissingConfigException("not there", file, ["basic"]))
    assert str(said) == f"hydra/launcher={launcher}: isn't installed; expected pip install {package} before it."


def test_a_configuration_that_is_not_there_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, "--config-name", "nowhere") == 2
    assert capsys.readouterr().err == (
        "clsweep: --config-name nowhere: there is no such file; expected the name of one in the folder of "
        "--config-dir, without its .yaml.\n"
    )


def test_the_version_is_ours() -> None:
    process = clsweep("--version")
    assert (process.returncode, process.stdout, process.stderr) == (0, f"clsweep {__version__}\n", "")


def test_what_is_measured_is_on_disk_after_every_context(tmp_path: Path) -> None:
    """This process may be killed at any time."""
    folder = tmp_path / "run"
    kept: list[tuple[list[int], object, list[list[str]]]] = []

    class Looking(Observer):
        def context_done(self, cells: Sequence[Cell]) -> None:
            found = results.load(tmp_path)
            assert found.problems == []
            told = found.runs[["status", "reason"]].to_numpy().tolist()
            kept.append((measured_after(folder), summary(folder)["status"], told))

    folder.mkdir()
    run(setting(*TINY, "regularizer=none"), folder, Looking())
    assert kept == [
        (list(range(after + 1)), "running", [["unfinished", f"it goes on, or was killed, after context {after} of 2"]])
        for after in (0, 1, 2)
    ]
    assert summary(folder)["status"] == "finished"


@pytest.mark.parametrize("ending", [KeyboardInterrupt(), SystemExit(1), MemoryError("full")])
def test_whatever_ends_a_run_keeps_what_was_measured(
    ending: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(self: Display, cells: list[Cell]) -> None:
        if cells[0].after_context == 1:
            raise ending

    monkeypatch.setattr(Display, "context_done", end)
    with pytest.raises(type(ending)):
        run(setting(*TINY, "regularizer=none"), tmp_path)
    assert measured_after(tmp_path) == [0, 1]
    assert summary(tmp_path)["status"] == ("failed" if isinstance(ending, MemoryError) else "interrupted")


def test_a_finished_run_stays_finished_when_the_display_breaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Display, "finished", broken)
    with pytest.raises(KeyboardInterrupt):
        run(setting(*TINY, "regularizer=none"), tmp_path)
    assert summary(tmp_path)["status"] == "finished"


def test_the_file_of_a_method_is_kept_beside_its_results(tmp_path: Path) -> None:
    run(setting(*TINY, f"regularizer.file={ROOT / 'custom_regularization.py'}"), tmp_path)
    assert (tmp_path / "custom_regularization.py").read_bytes() == (ROOT / "custom_regularization.py").read_bytes()


def copied(file: Path) -> Path:
    return Path(shutil.copy(file, file.with_suffix(".test.npz")))


def test_files_of_ones_own_data_are_told_apart_and_may_be_gone_by_the_end(tmp_path: Path) -> None:
    """The digest is taken when the run starts; a run that has trained must not fail over it."""

    class Removing(Observer):
        def context_done(self, cells: Sequence[Cell]) -> None:
            file.unlink(missing_ok=True)

    digests: list[object] = []
    for number in (0, 0, 1):
        file = tmp_path / "own.npz"
        source = np.random.default_rng(number)
        images = source.integers(0, 256, (12, 4, 4), dtype=np.uint8)
        np.savez(file, images=images, labels=np.arange(12) % 4)
        folder = tmp_path / f"run-{len(digests)}"
        folder.mkdir()
        data = ("dataset=arrays", f"dataset.train={file}", f"dataset.test={copied(file)}", "validation_fraction=0")
        run(setting(*TINY[:1], *data, *TINY[2:], "regularizer=none"), folder, Removing())
        row = summary(folder)
        assert row["status"] == "finished"
        digests.append(row["dataset_digest"])
    assert digests[0] == digests[1] != digests[2]
    assert len(str(digests[0])) == 12


def test_one_file_in_two_layouts_is_two_data_sets(tmp_path: Path) -> None:
    file = tmp_path / "own.npz"
    images = np.random.default_rng(0).integers(0, 256, (12, 3, 5, 4), dtype=np.uint8)
    np.savez(file, images=images, labels=np.arange(12) % 4)
    data = ("dataset=arrays", f"dataset.train={file}", f"dataset.test={copied(file)}")
    digests = set()
    for layout in ("hwc", "chw"):
        folder = tmp_path / layout
        folder.mkdir()
        run(setting(*TINY[:1], *data, *TINY[2:], "regularizer=none", f"dataset.layout={layout}"), folder, Observer())
        digests.add(summary(folder)["dataset_digest"])
    assert len(digests) == 2


def test_a_file_in_the_current_folder_is_not_taken_for_one_of_pythons_modules(tmp_path: Path) -> None:
    for name in ("random.py", "glob.py", "threading.py"):
        (tmp_path / name).write_text("raise RuntimeError('not a module of Python')")
    done = clsweep("--version", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
