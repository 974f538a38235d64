"""Runs that are made once, however often a script is started and however many processes are at it."""

from __future__ import annotations

import fcntl
import hashlib
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from clsweep import resuming


def digest(overrides: Sequence[str]) -> str:
    """Twelve characters that tell runs apart by what is typed for them."""
    return hashlib.sha256(shlex.join(overrides).encode()).hexdigest()[:12]


def run_unless_finished(folder: Path, overrides: Sequence[str]) -> int:
    """Run `python -m clsweep` in a folder; what was stopped there goes on.

    Args:
        folder: for this run alone, always the same.
        overrides: Hydra's.

    Returns:
        The exit code; 0 where the run was finished before, or is being made by another process.
    """
    return _alone(folder, [*overrides, f"hydra.run.dir={folder}"], lambda: resuming.finished(folder) is not None)


def sweep_alone(folder: Path, overrides: Sequence[str]) -> int:
    """Run `python -m clsweep --multirun` for one study in a folder; what was stopped there goes on.

    Args:
        folder: for this study alone, always the same.
        overrides: Hydra's.

    Returns:
        The exit code; 0 where another process is at it.
    """
    return _alone(folder, ["--multirun", *overrides, f"hydra.sweep.dir={folder}"], lambda: False)


def _alone(folder: Path, arguments: Sequence[str], is_done: Callable[[], bool]) -> int:
    """Start clsweep, unless another process has started it for the same folder."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{folder}: another process is at it", flush=True)
            return 0
        if is_done():
            return 0
        command = [sys.executable, "-m", "clsweep", *arguments]
        print(shlex.join(["python", *command[1:]]), flush=True)
        # The run holds the lock, too: it may outlive this process.
        return subprocess.run(command, check=False, pass_fds=[lock.fileno()]).returncode
