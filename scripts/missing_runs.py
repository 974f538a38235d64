"""Runs that are made once, however often a script is started."""

from __future__ import annotations

import hashlib
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from filelock import FileLock, Timeout

from clsweep import results


def run_unless_finished(output: Path, overrides: list[str]) -> int:
    """Run `python -m clsweep` in a folder below `output` that is named by the overrides' digest.

    Args:
        output: holds a folder for each run; that of a run that didn't finish is made anew.
        overrides: Hydra's.

    Returns:
        The exit code; 0 where the run was finished before, or is being made by another process.
    """
    folder = output / hashlib.sha256(shlex.join(overrides).encode()).hexdigest()[:12]
    output.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder.with_suffix(".lock"), timeout=0):
            return _run_unless_finished(folder, overrides)
    except Timeout:
        print(f"{folder}: another process is at it", flush=True)
        return 0


def _run_unless_finished(folder: Path, overrides: list[str]) -> int:
    if folder.exists():
        if (results.load(folder).runs["status"] == results.FINISHED).any():
            return 0
        shutil.rmtree(folder)
    command = [sys.executable, "-m", "clsweep", *overrides, f"hydra.run.dir={folder}"]
    print(shlex.join(["python", *command[1:]]), flush=True)
    return subprocess.run(command, check=False).returncode
