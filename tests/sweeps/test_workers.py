"""The workers of a sweep: how many there are, what each is told, and what becomes of the others when one ends."""

from __future__ import annotations

import errno
import io
import os
import signal
import subprocess
import sys
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
import sweeping
from hydra.core.override_parser.overrides_parser import OverridesParser
from launching import launched
from omegaconf import OmegaConf
from rich.console import Console
from sweeping import plan, random_images
from test_cli import TINY, environment

from clsweep import config as settings
from clsweep import memory
from clsweep.config import DatasetConfig, WorkerConfig
from clsweep.data.context_cache import ContextCache
from clsweep.data.datasets import ImageData
from clsweep.errors import InputError, RunError
from clsweep.sweeps import command, crew, owner, role
from clsweep.sweeps.overrides import Sweep
from clsweep.sweeps.processes import Helpers
from clsweep.training import machine


def test_a_worker_of_a_launcher_that_was_killed_is_told_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(RunError) as told:
        launched(tmp_path, error=RuntimeError("A worker process was terminated.\nThe exit codes are"))
    assert str(told.value) == (
        "Looking: a worker ended before it was done, killed or out of memory perhaps (RuntimeError: A worker process "
        "was terminated); what is finished is kept: run the same command again."
    )


def test_no_more_workers_are_started_than_can_have_work(tmp_path: Path) -> None:
    assert len(launched(tmp_path, "search.n_trials=2", "search.workers=50").jobs) == 6  # final runs
    assert len(launched(tmp_path, "search.n_trials=20", "search.workers=50").jobs) == 20
    assert len(launched(tmp_path, "search.n_trials=20", "search.workers=3").jobs) == 3
    assert len(launched(tmp_path, "search.n_trials=20").jobs) == 2  # as many as the launcher runs at once


@pytest.fixture
def four_cores(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Of which all are idle, with room for ten workers."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(machine, "physical_cores", lambda: 4)
    monkeypatch.setattr(machine, "idle_cores", lambda: (4, None))
    monkeypatch.setattr(memory, "fitting", lambda n_bytes: 9)
    return monkeypatch


def own(folder: Path, *overrides: str) -> tuple[int, int | None, list[str]]:
    """How many workers there are without a launcher, the threads of each, and the lines on it."""
    made = crew.crew_of(None, None, Sweep([plan(folder, "regularizer=si", *overrides)], folder, [], []))
    assert isinstance(made, crew.OwnCrew)
    return made.workers, made.threads, [note for note in made.notes if note.startswith("note")]


def test_by_default_there_is_a_worker_of_one_thread_for_each_idle_core(
    tmp_path: Path, four_cores: pytest.MonkeyPatch
) -> None:
    assert own(tmp_path) == (4, 1, [])
    assert own(tmp_path, "threads=2")[0] == 2
    assert own(tmp_path, "search.n_trials=1", "search.final_seeds=1") == (2, 2, [])  # tuned and default values
    assert own(tmp_path, "search.n_trials=1", "search.final_seeds=0") == (1, None, [])
    assert own(tmp_path, "search.workers=2") == (2, 2, [])
    assert own(tmp_path, "search.workers=8") == (8, 1, [])
    four_cores.setenv("OMP_NUM_THREADS", "1")
    assert own(tmp_path, "search.workers=2") == (2, 1, [])
    four_cores.setattr(machine, "idle_cores", lambda: (3, "other processes keep 1.0 of 4 cores busy"))
    busy = "note     other processes keep 1.0 of 4 cores busy: 3 of 4 workers (search.workers=4 starts all)"
    assert own(tmp_path) == (3, 1, [busy])
    four_cores.setattr(memory, "fitting", lambda n_bytes: 1)
    assert own(tmp_path) == (2, 1, ["note     memory suffices for 2 of 4 workers (search.workers=4 starts all)"])
    four_cores.setattr(crew, "pick_device", lambda device: OmegaConf.create({"type": "cuda"}))
    assert own(tmp_path) == (1, None, [])


def test_what_a_worker_is_told_arrives_as_it_was(tmp_path: Path) -> None:
    texts = ["a.b='it\\'s'", "x=${y.z}", "back\\${slash}", "c:\\dir\\", "[1,{a: 2}] # ü", ""]
    told = WorkerConfig(3, ["split_mnist-ewc-1", *texts], owner.to_json(owner.this_process()), texts)
    override = OverridesParser.create().parse_override(role.as_override(told))
    composed = OmegaConf.create({"search": {"worker": override.value()}})
    assert settings.worker(composed) == told
    assert settings.worker(OmegaConf.create({"search": {"worker": None}})) is None
    with pytest.raises(InputError, match=r"search\.worker: is set by a sweep for its workers; expected the"):
        settings.worker(OmegaConf.create({"search": {"worker": {"nmber": 1}}}))


def test_a_worker_with_another_number_of_studies_is_refused(tmp_path: Path) -> None:
    made = plan(tmp_path, "regularizer=si")
    role.check(WorkerConfig(1, [made.name]), [made])
    with pytest.raises(InputError) as told:
        role.check(WorkerConfig(1, [made.name, "another"]), [made])
    assert str(told.value) == (
        "search.worker.studies: has 2 names, but the command makes 1 studies; expected the command without "
        "search.worker, which a sweep sets for its workers."
    )


def test_a_helpers_sentence_and_code_reach_the_sweep(tmp_path: Path) -> None:
    told: list[str] = []
    wrong = ["benchmark=split_mnist", "benchmark.contexts=0"]
    with pytest.raises(InputError) as caught, Helpers([wrong], 1, tmp_path, told.append) as helpers:
        helpers.wait()
    assert str(caught.value) == "benchmark.contexts=0: expected an integer of 1 or more."
    assert told == [f"worker 1 ended: {caught.value}"]


def programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A helper's argument is a program that it runs, in place of a sweep's."""
    popen = subprocess.Popen

    def run(command: Sequence[str], **given: Any) -> subprocess.Popen[bytes]:
        return popen([command[0], "-c", command[-1]], **given)

    monkeypatch.setattr(subprocess, "Popen", run)


LAST = "import time; time.sleep(1); print('clsweep: the last.'); raise SystemExit(2)"


@pytest.mark.skipif(not hasattr(signal, "SIGRTMIN"), reason="there are no real-time signals")
def test_a_helper_that_a_nameless_signal_ends_leaves_the_others_watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs(monkeypatch)
    told: list[str] = []
    number = signal.SIGRTMIN + 1
    killed = f"import os; os.kill(os.getpid(), {number})"
    with pytest.raises(InputError, match="the last"), Helpers([[killed], [LAST]], 1, tmp_path, told.append) as helpers:
        helpers.wait()
    assert told[0].startswith(f"worker 1 ended before it was done (signal {number}: killed, or out of memory perhaps)")
    assert told[1] == "worker 2 ended: the last."


def test_a_helper_whose_log_is_not_to_be_removed_or_read_leaves_the_others_watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs(monkeypatch)

    def refused(log: Path) -> None:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(log))

    monkeypatch.setattr(Path, "unlink", refused)
    told: list[str] = []
    gone = f"import os; os.remove({str(tmp_path / '2.log')!r})"
    with (
        pytest.raises(InputError, match="the last"),
        Helpers([["pass"], [gone], [LAST]], 1, tmp_path, told.append) as helpers,
    ):
        helpers.wait()
    assert told == ["worker 3 ended: the last."]


def test_a_helper_whose_end_cannot_be_told_leaves_the_others_watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs(monkeypatch)
    told: list[str] = []

    def tell(line: str) -> None:
        told.append(line)
        if len(told) == 1:
            raise ValueError("I/O operation on closed file.")

    with (
        pytest.raises(RunError, match=r"^worker 1 ended, which couldn't be told \(ValueError: I/O operation on closed"),
        Helpers([["raise SystemExit(130)"], [LAST]], 1, tmp_path, tell) as helpers,
    ):
        helpers.wait()
    assert told[1:] == ["worker 2 ended: the last."]


METHOD = """
import os
import signal
import time
from pathlib import Path

FOLDER = Path({folder!r})
HYPERPARAMETERS = ("reg_strength",)


def estimate_importance(model, dataset, prev_params, device):
    if len(dataset) > 100:  # not a rehearsal's
        (FOLDER / str(os.getpid())).touch()
        while len(list(FOLDER.iterdir())) < 2:  # until both have begun
            time.sleep(0.05)
        if {deadly} and os.getpid() != {pid}:
            os.kill(os.getpid(), signal.SIGKILL)
    return {{}}


def compute_regularization_loss(model, importance_dict, prev_params_dict):
    return sum(p.sum() * 0 for p in model.parameters())
"""


@pytest.mark.slow
@pytest.mark.parametrize("deadly", [False, True])
def test_a_sweep_from_python_shares_its_trials_with_another_process(tmp_path: Path, deadly: bool) -> None:
    begun, folder, file = tmp_path / "begun", tmp_path / "sweep", tmp_path / "method.py"
    begun.mkdir()
    pid = owner.this_process().pid
    file.write_text(METHOD.format(folder=str(begun), deadly=deadly, pid=pid))
    out = Console(file=io.StringIO(), width=200)
    arguments = [*TINY, "benchmark.iters=5", f"regularizer.file={file}", "search.final_seeds=0", "search.pruner=null"]
    made = command.tune([*arguments, "search.n_trials=4", "search.workers=2"], folder, out)

    assert isinstance(out.file, io.StringIO)
    printed = out.file.getvalue()
    assert [len(one.now.complete) for one in made] == [4]
    trials = optuna.load_study(study_name=made[0].study.plan.name, storage=f"sqlite:///{folder}/studies.db").trials
    workers = [trial.user_attrs["owner"]["pid"] for trial in trials]
    assert len({str(trial.params) for trial in made[0].now.complete}) == 4
    assert f"workers  2 processes of 1 thread, with logs in {folder}/.workers" in printed
    assert len(set(workers)) == 2
    assert pid in workers
    killed = "worker 1 ended before it was done (SIGKILL: killed, or out of memory perhaps); the others go on, and its"
    assert (killed in printed) == deadly
    table = pd.read_csv(folder / "trials.csv")
    assert table.state.tolist().count("COMPLETE") == 4
    lost = table[table.state == "FAIL"].reason.tolist()
    assert [reason.partition(" (")[0] for reason in lost] == ["its process ended"] * deadly
    assert (folder / ".workers").exists() == deadly  # where nothing was said, nothing is left


def test_planning_reads_a_data_set_once_and_leaves_none_to_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: weakref.WeakSet[ImageData] = weakref.WeakSet()
    counted: list[int] = []

    def read(config: DatasetConfig) -> ImageData:
        made = random_images(config)
        alive.add(made)
        counted.append(len(alive))
        return made

    def count(*_: object) -> None:
        counted.append(len(alive))

    def idle(*_: object) -> crew.OwnCrew:
        count()
        return crew.OwnCrew(1, None, [])

    monkeypatch.setattr(command, "ContextCache", lambda: ContextCache(read))
    monkeypatch.setattr(command, "crew_of", idle)
    monkeypatch.setattr(crew.OwnCrew, "work", count)
    arguments = (*sweeping.TINY, "regularizer=gpm,owm", "search.n_trials=1")  # which are both rehearsed
    command.tune(arguments, tmp_path, Console(quiet=True))
    assert counted == [1, 1, 0]


ORPHAN = """
import sys, time
from clsweep import process
from clsweep.config import DatasetConfig, WorkerConfig
from clsweep.data.context_cache import ContextCache
from clsweep.data.datasets import ImageData
from clsweep.sweeps import owner, role

def command():
    gone = owner.to_json(owner.this_process()) | {"ticks": 0}
    with role.ended_with_its_sweep(WorkerConfig(1, [], gone)):
        time.sleep(60)
    return 0

sys.exit(process.run_last("clsweep", command))
"""


def test_a_worker_does_not_outlive_its_sweep() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ORPHAN], env=environment(), capture_output=True, text=True, timeout=50, check=False
    )
    assert (done.returncode, done.stderr) == (130, "clsweep: interrupted.\n")
