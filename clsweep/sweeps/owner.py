"""Which process runs a trial, and whether it still does."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import optuna
import psutil
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, Trial, TrialState

OWNER, BEAT = "owner", "beat"  # attributes of a trial
BEAT_SECONDS = 30.0
_SECONDS_UNTIL_LOST = 10 * BEAT_SECONDS
_TICKS = 19  # in /proc/PID/stat, counted from the first field after the name


_held: set[tuple[int, datetime | None]] = set()  # the trials that this process runs, by number and claim
_silent: dict[tuple[Owner, int], tuple[float | None, float]] = {}  # a trial's last beat, and when it was first seen


@dataclass(frozen=True)
class Owner:
    """A process.

    Process numbers are reused, so a process is told by its start, too. The machine's clock may be set while it runs:
    where the operating system counts a process's start from its own, that is what counts.

    Attributes:
        host: the machine's name.
        boot: what tells this start of this machine, or of this container, from others.
        pid: the process's number there.
        started: when the process started, in seconds of that machine's clock; None where `ticks` are known.
        ticks: when the process started, in clock ticks since the machine did; None where Linux doesn't say, and in what
            older versions of clsweep have written.
    """

    host: str
    boot: str
    pid: int
    started: float | None = None
    ticks: int | None = None

    @property
    def is_here(self) -> bool:
        """Whether it is, or was, a process of this machine."""
        return self.boot == _boot()

    @property
    def is_this_process(self) -> bool:
        """Whether it is the process that asks, even if the machine has another name by now."""
        here = this_process()
        return (self.boot, self.pid, self.started, self.ticks) == (here.boot, here.pid, here.started, here.ticks)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    def runs_here(self) -> bool | None:
        """Whether the process, one of this machine's, runs; None where only a clock that may have been set tells."""
        try:
            process = psutil.Process(self.pid)
            if process.status() == psutil.STATUS_ZOMBIE:
                return False
            started, ticks = _start(process)
        except psutil.NoSuchProcess:
            return False
        if ticks is not None:
            return None if self.ticks is None else self.ticks == ticks
        return self.started is not None and started is not None and abs(self.started - started) < 1

    def has_ended(self, trial: FrozenTrial) -> bool:
        """Whether the process is gone.

        On this machine, the operating system knows. Of another machine's process, only its beats are seen here: once
        its trial has had no new one for five minutes it counts as gone. The minutes are this process's own, since two
        machines' clocks may differ.

        Args:
            trial: one that the process runs.
        """
        runs = self.runs_here() if self.is_here else None
        return self._is_silent(trial) if runs is None else not runs

    def _is_silent(self, trial: FrozenTrial) -> bool:
        key, beat, now = (self, trial._trial_id), trial.user_attrs.get(BEAT), time.monotonic()
        last, since = _silent.get(key, (beat, now))
        _silent[key] = beat, since if last == beat else now
        return now - _silent[key][1] > _SECONDS_UNTIL_LOST


def this_process() -> Owner:
    """The owner of the trials that are claimed here."""
    process = psutil.Process()
    return Owner(socket.gethostname(), _boot(), process.pid, *_start(process))


def family() -> set[int]:
    """The numbers of this process and of those that it has started and that run now."""
    here = psutil.Process()
    return {here.pid, *(child.pid for child in here.children(recursive=True))}


def to_json(owner: Owner) -> dict[str, Any]:
    """The owner as an attribute of a trial."""
    return asdict(owner)


def from_json(attribute: Mapping[str, Any]) -> Owner:
    """The owner from an attribute of a trial, which an older version of clsweep may have written."""
    return Owner(**attribute)


def claimed_trial() -> FrozenTrial:
    """A new trial of this process's: a storage writes it with its owner at once, or not at all."""
    return optuna.trial.create_trial(state=TrialState.RUNNING, user_attrs=signature())


def sign(storage: BaseStorage, trial_id: int) -> None:
    """Say that a trial is this process's, right after it was claimed."""
    for key, value in signature().items():
        storage.set_trial_user_attr(trial_id, key, value)


def signature() -> dict[str, Any]:
    """The attributes that mark a trial as this process's."""
    return {BEAT: time.time(), OWNER: to_json(this_process())}


def hold(trial: Trial) -> None:
    """Note that this process runs a trial from now on."""
    _held.add(_claim(trial))


def let_go(trial: Trial) -> None:
    """Note that this process runs a trial no more, whether or not the storage knows."""
    _held.discard(_claim(trial))


def holds(trial: FrozenTrial) -> bool:
    """Whether this process runs a trial that is its own by the storage."""
    return _claim(trial) in _held


def _claim(trial: Trial | FrozenTrial) -> tuple[int, datetime | None]:
    return trial._trial_id, trial.datetime_start  # a number alone comes again in another storage


def _start(process: psutil.Process) -> tuple[float | None, int | None]:
    """When a process started, as an owner has it: in seconds of the clock, or in ticks.

    Raises:
        psutil.NoSuchProcess: it is gone.
    """
    if not psutil.LINUX:
        return process.create_time(), None
    try:
        stat = Path(f"/proc/{process.pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError) as error:
        raise psutil.NoSuchProcess(process.pid) from error
    _, _, after_name = stat.rpartition(")")  # a program's name may hold anything
    return None, int(after_name.split()[_TICKS])


@cache
def _boot() -> str:
    """The machine's start, and the namespace that process numbers count in: containers share a machine's start.

    Where one of the two isn't known, the machine's name tells others apart.
    """
    identity, namespace = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    boot = identity.read_text().strip() if identity.is_file() else f"{psutil.boot_time():.0f}"
    inside = str(namespace.readlink()) if namespace.is_symlink() else ""
    name = "" if identity.is_file() and inside else socket.gethostname()
    return " ".join(filter(None, (boot, inside, name)))


@contextmanager
def heartbeats(beat: Callable[[], None]) -> Iterator[None]:
    """Call `beat` now and then from a thread, for other machines to see.

    Args:
        beat: must not raise.
    """
    stop = threading.Event()

    def keep_on() -> None:
        while not stop.wait(BEAT_SECONDS):
            beat()

    thread = threading.Thread(target=keep_on, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
