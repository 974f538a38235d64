"""Launchers that start nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from hydra.plugins.launcher import Launcher
from omegaconf import OmegaConf
from sweeping import TINY, plan

from clsweep import passwords
from clsweep.sweeps.crew import crew_of
from clsweep.sweeps.overrides import Sweep


class Looking:
    """Keeps what is on the disk when its jobs would start.

    Args:
        folder: the sweep's.
        error: what ends it instead.
    """

    def __init__(self, folder: Path, error: Exception | None = None) -> None:
        self._folder = folder
        self._error = error
        self.seen = ""
        self.jobs: list[Sequence[str]] = []

    def launch(self, jobs: Sequence[Sequence[str]], initial_job_idx: int) -> list[Any]:
        self.seen = "".join(path.read_text() for path in self._folder.rglob("*") if path.is_file())
        self.jobs = list(jobs)
        if self._error is not None:
            raise self._error
        return []


def launched(
    folder: Path, *overrides: str, url: str = "sqlite:///studies.db", error: Exception | None = None
) -> Looking:
    """Hand a study to such a launcher."""
    setting = OmegaConf.create({"_target_": "hydra_plugins...JoblibLauncher", "n_jobs": 2})
    launcher = Looking(folder, error)
    study = plan(folder, "regularizer=si", f"search.storage={passwords.keep(url)}", *overrides)
    typed = [*TINY, f"++search.storage='{passwords.keep(url)}'"]
    sweep = Sweep([study], folder, typed, [])
    crew_of(cast(Launcher, launcher), setting, sweep).work(sweep, print)
    return launcher
