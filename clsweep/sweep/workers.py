"""The processes of a sweep: how a launcher starts them, and what each is told."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import joblib
from hydra.core.utils import JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig

from clsweep import config as settings
from clsweep.errors import InputError
from clsweep.paths import short
from clsweep.sweep import owner, storage
from clsweep.sweep.plan import StudyPlan
from clsweep.sweep.worker import work

_TASKS = ".tasks"
_OWN_PROCESSES = ("joblib", "LocalLauncher")  # launchers whose jobs are other processes on this machine


@dataclass(frozen=True)
class Task:
    """What a worker is told, through a file in the sweep folder.

    Attributes:
        studies: each study's setting, folder and name.
        storage: the storage's URL.
        workers: how many there are.
        threads: how many threads a worker may use; None: as many as it sees cores.
        parent: the process that a worker must not outlive, on the same machine; None: none.
    """

    studies: list[dict[str, Any]]
    storage: str
    workers: int
    threads: int | None
    parent: dict[str, Any] | None

    @classmethod
    def of(cls, plans: Sequence[StudyPlan], url: str, composed: DictConfig) -> Task:
        """The task of this command's workers."""
        launcher = composed.hydra.launcher
        here = _names(launcher, _OWN_PROCESSES)
        workers = plans[0].config.search.workers or _jobs_at_once(launcher)
        threads = max(1, joblib.cpu_count() // workers) if here and workers > 1 else None
        studies = [{"config": asdict(one.config), "folder": str(one.folder), "name": one.name} for one in plans]
        return cls(studies, url, workers, threads, owner.to_json(owner.this_process()) if here else None)

    def is_orphaned(self) -> bool:
        """Whether the process that a worker must not outlive is gone."""
        return self.parent is not None and owner.from_json(self.parent).has_ended(beat=None)

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


def are_here(launcher: DictConfig) -> bool:
    """Whether the workers that it starts run on this machine."""
    return _names(launcher, ("BasicLauncher", *_OWN_PROCESSES))


def _names(launcher: DictConfig, words: Sequence[str]) -> bool:
    return any(word in launcher._target_ for word in words)


def _jobs_at_once(launcher: DictConfig) -> int:
    """How many jobs the launcher runs at the same time."""
    n_jobs = launcher.get("n_jobs", 1)
    return int(n_jobs) if n_jobs > 0 else joblib.cpu_count(only_physical_cores=True)


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
    file.touch(mode=0o600)  # the storage's URL may hold a password; Hydra writes a job's overrides down
    file.write_text(json.dumps(asdict(task)))
    logs = f"{_TASKS}/{datetime.now():%Y-%m-%d_%H-%M-%S-%f}"
    job = [one for one in overrides if "search.storage=" not in one] + [f"search.plan={_quoted(file)}"]
    try:
        jobs = [[*job, f"hydra.sweep.subdir={logs}-{number}"] for number in range(task.workers)]
        for returned in launcher.launch(jobs, initial_job_idx=0):
            if returned.status == JobStatus.FAILED:
                raise returned._return_value  # its return_value would print more than our sentence
    finally:
        file.unlink()


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
    task = Task(**json.loads(file.read_text()))
    if task.threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(task.threads)  # which every run follows that isn't told otherwise
    connection = storage.connect(task.storage)
    try:
        with storage.told_in_a_sentence(task.storage):
            work(task.plans, connection, task.is_orphaned)
    finally:
        storage.close(connection)
    if task.is_orphaned():
        os._exit(1)  # joblib's workers would go on waiting for their parent's next job
