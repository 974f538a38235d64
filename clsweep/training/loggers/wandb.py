"""`logger=wandb`: Weights & Biases; offline with WANDB_MODE=offline or `logger.wandb.mode=offline`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from clsweep.errors import InputError
from clsweep.paths import short
from clsweep.results.writing import FINISHED
from clsweep.training.loggers import require
from clsweep.training.loggers.scalars import CONTEXTS, ITERATIONS, Scalars
from clsweep.training.observers import Started

require("wandb")

_AXES: Final = (("test/*", CONTEXTS), ("validation/*", CONTEXTS), ("train/*", ITERATIONS), ("curve/*", ITERATIONS))
_OFFLINE: Final = ("offline", "disabled", "dryrun")


class WandB(Scalars):
    """A run of W&B's for each run; those of a study are a group.

    Args:
        project: where the runs go.
        entity: the user or team; None: your default one.
        group: None: the study, in a sweep, or the folder of several seeds.
        tags: for each run.
        mode: online, offline or disabled; None: WANDB_MODE, else online.
    """

    def __init__(
        self,
        project: str = "clsweep",
        entity: str | None = None,
        group: str | None = None,
        tags: Sequence[str] = (),
        mode: str | None = None,
    ) -> None:
        super().__init__()
        self._project = project
        self._entity = entity
        self._group = group
        self._tags = tags
        self._mode = mode
        self._run: Any = None
        self._where = ""

    def begin(self, run: Started) -> None:
        """Start a run of its own, beside any other of this process; its files are in the run's folder.

        Raises:
            InputError: nobody is logged in, and a worker, or a job on a cluster, can't be asked.
        """
        import wandb  # here, since it takes seconds

        settings = wandb.Settings(silent=True, console="off")  # the terminal belongs to the display
        if self._mode is not None:
            settings.mode = self._mode
        mode = self._mode or wandb.setup().settings.mode
        if mode not in _OFFLINE and wandb.run is None and not wandb.login(prompt=False, verify=False):
            raise InputError(
                "logger=wandb: nobody is logged in; expected wandb login, WANDB_API_KEY, or logger.wandb.mode=offline."
            )
        self._run = wandb.init(
            project=self._project,
            entity=self._entity,
            group=self._group or run.study or None,
            name=run.name,
            tags=list(self._tags),
            config=dict(run.values),
            dir=None if run.folder is None else str(run.folder),
            reinit="create_new",
            settings=settings,
        )
        for names, axis in _AXES:
            self._run.define_metric(names, step_metric=axis)
        local = f"wandb sync {shlex.quote(str(short(Path(self._run.dir).parent)))}"
        self._where = local if self._run.offline else self._run.url or ""

    def log(self, scalars: Mapping[str, float], axis: str, at: int) -> None:
        self._run.log({axis: at, **scalars})

    def end(self, status: str) -> None:
        """End W&B's run; where a connection is missing, this waits for it."""
        self._run.summary["status"] = status
        self._run.finish(exit_code=0 if status == FINISHED else 1)

    @property
    def where(self) -> str:
        """Its page, or the command that uploads it."""
        return self._where
