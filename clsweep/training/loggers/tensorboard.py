"""`logger=tensorboard`: scalars in the run's folder, for `tensorboard --logdir outputs`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clsweep.errors import InputError
from clsweep.paths import short
from clsweep.training.loggers import require
from clsweep.training.loggers.scalars import Scalars
from clsweep.training.observers import Started

require("tensorboard")

_SECONDS_BETWEEN_FLUSHES = 10


class TensorBoard(Scalars):
    """Writes scalars, whose steps are contexts or iterations, and the setting as a text."""

    def __init__(self) -> None:
        super().__init__()
        self._folder: Path | None = None
        self._writer: Any = None

    def begin(self, run: Started) -> None:
        """Open a file in the run's folder."""
        from torch.utils.tensorboard import SummaryWriter  # here, since it takes seconds

        if run.folder is None:
            raise InputError("logger=tensorboard: writes into the run's folder; expected folder=... as well.")
        self._folder = run.folder
        self._writer = SummaryWriter(str(run.folder), flush_secs=_SECONDS_BETWEEN_FLUSHES)
        rows = [f"| {name} | {value} |" for name, value in run.values.items()]
        self._writer.add_text("setting", "\n".join(["| | |", "|---|---|", *rows]))

    def log(self, scalars: Mapping[str, float], axis: str, at: int) -> None:
        """Write scalars; they are seen while the run goes on."""
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, at)

    def end(self, status: str) -> None:
        self._writer.close()

    @property
    def where(self) -> str:
        """The command that shows it."""
        return f"tensorboard --logdir {shlex.quote(str(short(self._folder)))}" if self._folder is not None else ""
