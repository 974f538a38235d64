"""Hydra's launchers, and what each needs before it can start a worker; imports nothing slow."""

from __future__ import annotations

import shutil
from typing import Final

from omegaconf import DictConfig

from clsweep.errors import InputError

# The package that brings each.
PACKAGES: Final = {
    "joblib": "hydra-joblib-launcher",
    "submitit_slurm": "hydra-submitit-launcher",
    "submitit_local": "hydra-submitit-launcher",
}
_HERE = ("BasicLauncher", "joblib", "LocalLauncher")


def check(launcher: DictConfig) -> None:
    """Check that a launcher can start what it is told to.

    Args:
        launcher: Hydra's configuration of it.

    Raises:
        InputError: it can't.
    """
    if launcher.get("n_jobs") == 0:
        raise InputError("hydra.launcher.n_jobs=0: expected 1 or more processes, or -1 for one on each core.")
    if is_slurm(launcher) and shutil.which("srun") is None:
        raise InputError(
            "hydra/launcher=submitit_slurm: there is no Slurm on this machine (no srun); expected a machine of the "
            "cluster, or search.workers=N for workers on this one."
        )


def is_default(launcher: DictConfig) -> bool:
    """Whether none was chosen: Hydra's own runs one job after the other in this process."""
    return "BasicLauncher" in launcher._target_


def is_slurm(launcher: DictConfig) -> bool:
    """Whether its jobs run on other machines."""
    return "Slurm" in launcher._target_


def is_here(launcher: DictConfig) -> bool:
    """Whether the workers that it starts run on this machine."""
    return any(word in launcher._target_ for word in _HERE)


def jobs_at_once(launcher: DictConfig) -> int:
    """How many jobs it runs at the same time."""
    import joblib  # here, since it takes long

    n_jobs = launcher.get("n_jobs", 1)
    return int(n_jobs) if n_jobs > 0 else int(joblib.cpu_count(only_physical_cores=True))
