"""Who works on a sweep: this process and more like it on this machine, or the jobs of one of Hydra's launchers."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

import psutil
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from clsweep import memory
from clsweep.config import WorkerConfig
from clsweep.errors import ClsweepError, RunError, machine_error, named
from clsweep.paths import short
from clsweep.process import wants_traceback
from clsweep.sweeps import launchers, owner, role, storage
from clsweep.sweeps.overrides import Sweep
from clsweep.sweeps.plan import StudyPlan
from clsweep.sweeps.processes import Helpers
from clsweep.sweeps.worker import work
from clsweep.training import machine
from clsweep.training.run import pick_device

_LOGS = ".workers"
_MEMORY_OF_A_WORKER = 1.5  # over that of the process that has planned the sweep, with the data in it


class Crew(Protocol):
    """Works on a sweep's studies until nothing is left."""

    @property
    def notes(self) -> list[str]:
        """Lines on how many workers there are."""

    def work(self, sweep: Sweep, tell: Callable[[str], None]) -> None:
        """Work.

        Args:
            sweep: whose studies.
            tell: takes a line for the user; called from any thread.

        Raises:
            ClsweepError: what stopped a worker.
            KeyboardInterrupt: the sweep was interrupted; no worker is left.
        """


@dataclass(frozen=True)
class OwnCrew:
    """This process, and further ones of the same command on this machine.

    Attributes:
        workers: how many processes work, this one among them.
        threads: how many threads each uses; None: as many as it finds best.
        notes: see `Crew`.
    """

    workers: int
    threads: int | None
    notes: list[str]

    def work(self, sweep: Sweep, tell: Callable[[str], None]) -> None:
        logs = sweep.folder / _LOGS / _now()
        roles = [_role(number, sweep, here=True) for number in range(1, self.workers)]
        commands = [[*sweep.command, role.as_override(one)] for one in roles]
        try:
            with (
                _logging_to(logs / "0.log"),
                _threads(self.threads),
                Helpers(commands, self.threads, logs, tell) as helpers,
            ):
                work_here(sweep, rehearsed=True)
                helpers.wait()
        finally:
            with suppress(OSError):  # it holds what was said
                os.removedirs(logs)


@dataclass(frozen=True)
class HiredCrew:
    """Jobs of one of Hydra's launchers, each of which is told `search.worker` and works until nothing is left.

    Attributes:
        launcher: Hydra's.
        workers: how many jobs.
        here: whether they run on this machine.
        notes: see `Crew`.
    """

    launcher: Launcher
    workers: int
    here: bool
    notes: list[str]

    def work(self, sweep: Sweep, tell: Callable[[str], None]) -> None:
        """See `Crew`; what the jobs return is known only when all have ended."""
        logs = f"{_LOGS}/{_now()}"
        jobs = [
            [
                role.as_override(_role(number, sweep, here=self.here, arguments=sweep.arguments)),
                "search.storage=null",  # which a configuration file may name: Hydra writes a job's setting down
                f"hydra.sweep.dir={role.typed(str(sweep.folder))}",
                f"hydra.sweep.subdir={logs}/{number}",
            ]
            for number in range(self.workers)
        ]
        with _threads(machine.physical_cores() // self.workers if self.here and self.workers > 1 else None):
            for returned in self._launched(jobs):
                if isinstance(returned, ClsweepError):
                    raise returned

    def _launched(self, jobs: Sequence[Sequence[str]]) -> list[object]:
        """What the jobs returned. A job returns its own error, so what is raised here is the launcher's."""
        try:
            return [job.return_value for job in self.launcher.launch(jobs, initial_job_idx=0)]
        except (ClsweepError, HydraException, OmegaConfBaseException, OSError):
            raise
        except Exception as error:
            raise RunError(
                f"{type(self.launcher).__name__}: a worker ended before it was done, killed or out of memory perhaps "
                f"({named(error)}); what is finished is kept: run the same command again."
            ) from error


def crew_of(launcher: Launcher | None, setting: DictConfig | None, sweep: Sweep) -> Crew:
    """The crew of a sweep; call it with the data in memory.

    Args:
        launcher: Hydra's; None: none was chosen.
        setting: Hydra's configuration of it.
        sweep: what there is to do.
    """
    wanted, most = sweep.search.workers, _busy_at_once(sweep.plans)
    if launcher is not None and setting is not None and not launchers.is_default(setting):
        asked = wanted or launchers.jobs_at_once(setting)
        workers = min(asked, most)
        return HiredCrew(launcher, workers, launchers.is_here(setting), _idle(wanted, workers))
    asked, notes = (wanted, []) if wanted is not None else _default_workers(sweep.plans)
    workers = min(asked, most)
    if workers == 1:
        return OwnCrew(1, None, [*notes, *_idle(wanted, 1)])
    threads = max(1, machine.physical_cores() // workers)
    said = machine.threads_from_environment()
    threads = threads if said is None else min(threads, said)
    what = f"{workers} processes of {threads} thread{'s' * (threads > 1)}, with logs in {short(sweep.folder)}/{_LOGS}"
    return OwnCrew(workers, threads, [f"workers  {what}", *notes, *_idle(wanted, workers)])


def _default_workers(plans: Sequence[StudyPlan]) -> tuple[int, list[str]]:
    """One for each idle core, since processes with one thread each do more than one with several; one for a GPU.

    Returns:
        How many, and why there are fewer, as a line.
    """
    if any(pick_device(plan.config.device).type != "cpu" for plan in plans):
        return 1, []
    threads = max(plan.config.threads or machine.threads_from_environment() or 1 for plan in plans)
    cores = machine.physical_cores()
    idle, load = machine.idle_cores()
    workers, all_of_them = max(1, idle // threads), max(1, cores // threads)
    fitting = memory.fitting(_MEMORY_OF_A_WORKER * psutil.Process().memory_info().rss) + 1  # this one is there already
    advice = f"of {all_of_them} workers (search.workers={all_of_them} starts all)"
    if fitting < workers:
        return fitting, [f"note     memory suffices for {fitting} {advice}"]
    if workers < all_of_them:
        return workers, [f"note     {load}: {workers} {advice}"]
    return workers, []


def _busy_at_once(plans: Sequence[StudyPlan]) -> int:
    """How many workers can have a trial, or a final run of the best or the default values, at the same time."""
    return sum(max(plan.n_trials, plan.most_final_runs) for plan in plans)


def _idle(wanted: int | None, workers: int) -> list[str]:
    """A line on workers that were asked for and are not started."""
    if wanted is None or wanted <= workers:
        return []
    return [f"note     search.workers={wanted}: {workers} are started, since there is no work for more at once"]


def _role(number: int, sweep: Sweep, here: bool, arguments: Sequence[str] = ()) -> WorkerConfig:
    process = owner.to_json(owner.this_process()) if here else None
    return WorkerConfig(number, [plan.name for plan in sweep.plans], process, list(arguments))


def work_as(part: WorkerConfig, sweep: Sweep) -> None:
    """A worker's work, in a process that the sweep has started.

    Args:
        part: its role.
        sweep: what it has found by itself.

    Raises:
        InputError: it has found other studies, or the data or a method don't fit.
        RunError: the storage or the machine failed.
        KeyboardInterrupt: it was interrupted, or its sweep is gone.
    """
    role.check(part, sweep.plans)
    with role.ended_with_its_sweep(part):
        work_here(sweep, rehearsed=part.sweep is not None)  # by the sweep, where that is on the same machine


def work_here(sweep: Sweep, *, rehearsed: bool) -> None:
    """Work on the studies in this process until nothing is left; see `work_as`."""
    connection = storage.connect(sweep.url)
    try:
        with storage.translating_errors(sweep.url):
            work(sweep.plans, connection, rehearsed=rehearsed)
    except OSError as error:
        if wants_traceback():
            raise
        raise machine_error(error) from error
    finally:
        storage.close(connection)


def _now() -> str:
    return f"{datetime.now():%Y-%m-%d_%H-%M-%S-%f}"


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    """Let runs in this process, and in those that it starts, have `number` threads unless told otherwise."""
    key = "OMP_NUM_THREADS"
    before = os.environ.get(key)
    if number is not None:
        os.environ[key] = str(max(1, number))
    try:
        yield
    finally:
        if before is not None:
            os.environ[key] = before
        elif number is not None:
            os.environ.pop(key, None)


@contextmanager
def _logging_to(file: Path) -> Iterator[None]:
    """Keep what is logged in a file, and off the terminal, which belongs to the monitor."""
    root = logging.getLogger()
    before = list(root.handlers)
    file.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(file, encoding="utf-8", errors="backslashreplace", delay=True)
    root.handlers[:] = [handler]
    try:
        yield
    finally:
        root.handlers[:] = before
        handler.close()
