"""Which process runs a trial, and whether it still does."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import optuna
import psutil
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

OWNER, BEAT = "owner", "beat"  # attributes of a trial
BEAT_SECONDS = 30.0
_SECONDS_UNTIL_LOST = 10 * BEAT_SECONDS


@dataclass(frozen=True)
class Owner:
    """A process.

    Attributes:
        host: the machine's name.
        boot: what tells this start of this machine, or of this container, from others.
        pid: the process's number there.
        started: when the process started, in seconds of that machine's clock; process numbers are reused.
    """

    host: str
    boot: str
    pid: int
    started: float

    @property
    def is_here(self) -> bool:
        """Whether it is, or was, a process of this machine."""
        return (self.host, self.boot) == (socket.gethostname(), _boot())

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    def has_ended(self, beat: float | None) -> bool:
        """Whether the process is gone.

        On this machine, the operating system knows. Of another machine's process, only its beats are seen here:
        without one for five minutes it counts as gone.

        Args:
            beat: its last beat, in seconds since the epoch.
        """
        if self.is_here:
            return not _runs(self.pid, self.started)
        return beat is None or time.time() - beat > _SECONDS_UNTIL_LOST


def this_process() -> Owner:
    """The owner of the trials that are claimed here."""
    process = psutil.Process()
    return Owner(socket.gethostname(), _boot(), process.pid, process.create_time())


def family() -> set[int]:
    """The numbers of this process and of those that it has started and that run now."""
    here = psutil.Process()
    return {here.pid, *(child.pid for child in here.children(recursive=True))}


def to_json(owner: Owner) -> dict[str, Any]:
    """The owner as an attribute of a trial."""
    return asdict(owner)


def from_json(attribute: Mapping[str, Any]) -> Owner:
    """The owner from an attribute of a trial."""
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
    # The beat first: without one, another machine takes an owner for gone.
    return {BEAT: time.time(), OWNER: to_json(this_process())}


def _runs(pid: int, started: float) -> bool:
    try:
        process = psutil.Process(pid)
        return bool(abs(process.create_time() - started) < 1) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@cache
def _boot() -> str:
    """The machine's start, and the namespace that process numbers count in: containers may share a host's name."""
    namespace = Path("/proc/self/ns/pid")
    inside = str(namespace.readlink()) if namespace.is_symlink() else ""
    identity = Path("/proc/sys/kernel/random/boot_id")
    boot = identity.read_text().strip() if identity.is_file() else f"{psutil.boot_time():.0f}"
    return f"{boot} {inside}".strip()


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
