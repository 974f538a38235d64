"""The processes of a sweep: how a launcher starts them, and what each is told."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import joblib
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from clsweep import config as settings
from clsweep import passwords
from clsweep.config import Config
from clsweep.errors import ClsweepError, InputError, RunError, named
from clsweep.paths import short
from clsweep.sweeps import owner, storage
from clsweep.sweeps.plan import StudyPlan
from clsweep.sweeps.worker import work

_TASKS = ".tasks"
_SECONDS_TO_BE_READ = 24 * 3600
_SECONDS_TO_LAST = 30 * _SECONDS_TO_BE_READ
_OWN_PROCESSES = ("joblib", "LocalLauncher")  # launchers whose jobs are other processes on this machine


@dataclass(frozen=True)
class Task:
    """What a worker is told, through a file in the sweep folder.

    Attributes:
        studies: each study's setting, folder and name.
        storage: the storage's URL without its password; see `clsweep.passwords`.
        workers: how many there are.
        threads: how many threads a worker may use; None: as many as it sees cores.
        sweep: the process that made the task.
        outlived: whether a worker may outlive that: on another machine it needn't know of its end.
    """

    studies: list[dict[str, Any]]
    storage: str
    workers: int
    threads: int | None
    sweep: dict[str, Any]
    outlived: bool

    @classmethod
    def of(cls, plans: Sequence[StudyPlan], url: str, composed: DictConfig) -> Task:
        """The task of this command's workers."""
        launcher = composed.hydra.launcher
        here = _names(launcher, _OWN_PROCESSES)
        workers = min(plans[0].config.search.workers or _jobs_at_once(launcher), _busy_at_once(plans))
        threads = max(1, joblib.cpu_count() // workers) if here and workers > 1 else None
        studies = [{"config": _written(one.config), "folder": str(one.folder), "name": one.name} for one in plans]
        shown = passwords.keep(url)
        return cls(studies, shown, workers, threads, owner.to_json(owner.this_process()), outlived=not here)

    def is_orphaned(self) -> bool:
        """Whether the process that a worker must not outlive is gone."""
        return not self.outlived and owner.from_json(self.sweep).has_ended(beat=None)

    @property
    def plans(self) -> list[StudyPlan]:
        """The studies.

        Raises:
            InputError: a method's file, or one of the data, isn't what it was when the sweep began.
        """
        made = [StudyPlan(settings.from_values(one["config"]), Path(one["folder"])) for one in self.studies]
        for plan, one in zip(made, self.studies, strict=True):
            if plan.name != one["name"]:
                file = Path(str(plan.config.regularizer.file or plan.config.dataset.train))
                raise InputError(
                    f"{short(file)}: has changed since the sweep began, which makes it another study than "
                    f"{one['name']}; expected the same command once more."
                )
        return made


def _written(config: Config) -> dict[str, Any]:
    """A setting as it is written down: the storage's URL may hold a password."""
    return asdict(replace(config, search=replace(config.search, storage=None)))


def are_here(launcher: DictConfig) -> bool:
    """Whether the workers that it starts run on this machine."""
    return _names(launcher, ("BasicLauncher", *_OWN_PROCESSES))


def _names(launcher: DictConfig, words: Sequence[str]) -> bool:
    return any(word in launcher._target_ for word in words)


def _jobs_at_once(launcher: DictConfig) -> int:
    """How many jobs the launcher runs at the same time."""
    n_jobs = launcher.get("n_jobs", 1)
    return int(n_jobs) if n_jobs > 0 else joblib.cpu_count(only_physical_cores=True)


def _busy_at_once(plans: Sequence[StudyPlan]) -> int:
    """How many workers can have a trial, or a final run of the best or the default values, at the same time."""
    return sum(max(plan.n_trials, 2 * len(plan.final_seeds)) for plan in plans)


def launch(launcher: Launcher, overrides: Sequence[str], task: Task, folder: Path) -> None:
    """Start the workers and wait for them.

    Each is one job of Hydra's that runs trials until none is left: a worker that is done with a short trial takes the
    next one, and waits for no other.

    Args:
        launcher: Hydra's.
        overrides: those of the first study, which Hydra composes a job's configuration from.
        task: what the workers do.
        folder: the sweep folder.

    Raises:
        ClsweepError: what stopped a worker.
    """
    file = folder / _TASKS / f"{uuid.uuid4().hex}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(file.parent)
    file.write_text(json.dumps(asdict(task)))
    logs = f"{_TASKS}/{datetime.now():%Y-%m-%d_%H-%M-%S-%f}"
    # Hydra writes a job's setting down: none of its overrides, nor a configuration file, says what the storage is.
    job = [one for one in overrides if "search.storage=" not in one]
    job += ["search.storage=null", f"search.plan={_quoted(file)}"]
    try:
        jobs = [[*job, f"hydra.sweep.subdir={logs}-{number}"] for number in range(task.workers)]
        for returned in _launched(launcher, jobs):
            if returned.status == JobStatus.FAILED:
                raise returned._return_value  # its return_value would print more than our sentence
    finally:
        file.unlink()


def _launched(launcher: Launcher, jobs: Sequence[Sequence[str]]) -> Sequence[JobReturn]:
    """What the jobs returned; what is wrong in one, it returns, so what is raised here is the launcher's."""
    try:
        returned: Sequence[JobReturn] = launcher.launch(jobs, initial_job_idx=0)
    except (ClsweepError, HydraException, OmegaConfBaseException, OSError):
        raise
    except Exception as error:
        raise RunError(
            f"{type(launcher).__name__}: a worker ended before it was done, killed or out of memory perhaps "
            f"({named(error)}); what is finished is kept: run the same command again."
        ) from error
    return returned


def _remove_leftovers(tasks: Path) -> None:
    """Remove the tasks of sweeps that were killed."""
    for file in tasks.glob("*.json"):
        with suppress(FileNotFoundError):  # another start removes them too
            if _is_left_over(file):
                file.unlink()


def _is_left_over(task: Path) -> bool:
    seconds = time.time() - task.stat().st_mtime
    try:
        sweep = owner.from_json(json.loads(task.read_text())["sweep"])
    except (ValueError, KeyError, TypeError):
        return seconds > _SECONDS_TO_BE_READ  # half written, or of another version
    return seconds > _SECONDS_TO_LAST or sweep.has_ended(beat=time.time())  # of another machine's, the age alone tells


def _quoted(path: Path) -> str:
    """A path as a value in Hydra's syntax."""
    escaped = str(path).replace("'", "\\'")
    return f"'{escaped}'"


def work_on(file: Path) -> None:
    """A worker's job.

    Args:
        file: its task.

    Raises:
        InputError: the data or a method don't fit.
        KeyboardInterrupt: the worker was interrupted.
    """
    try:
        task = Task(**json.loads(file.read_text()))
    except FileNotFoundError:
        raise InputError(
            f"search.plan={file}: the sweep that started this worker is over; start the sweep again."
        ) from None
    if task.threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(task.threads)  # which every run follows that isn't told otherwise
    url = passwords.revealed(task.storage)
    connection = storage.connect(url)
    try:
        with storage.told_in_a_sentence(url):
            work(task.plans, connection, task.is_orphaned, tells=HydraConfig.get().job.num == 0)
    finally:
        storage.close(connection)
    if task.is_orphaned():
        os._exit(1)  # joblib's workers would go on waiting for their parent's next job
