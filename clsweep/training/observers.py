"""Who is told what happens in a run, besides the files it writes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol, Self

from clsweep.results import Summary
from clsweep.results.metrics import Cell, Matrix


class Observer(Protocol):
    """What is told about a run on its way; `clsweep.training.display.Display` prints it."""

    def setting(self, device: str, hyperparameters: Sequence[str], folder: Path) -> None:
        """The run starts on `device` and writes to `folder`; its method uses `hyperparameters`."""

    def step(self) -> None:
        """One optimizer step was made."""

    def context_done(self, cells: Sequence[Cell]) -> None:
        """A context was learned (or none yet, `after_context=0`), and all contexts were measured."""

    def finished(self, matrix: Matrix, summary: Summary, folder: Path) -> None:
        """The run is finished and written; `matrix` holds its test accuracies."""

    def stopped(self, summary: Summary, folder: Path) -> None:
        """The run ended early; what was measured is written."""

    def __enter__(self) -> Self:
        """Training starts."""

    def __exit__(self, *_: object) -> None:
        """Training is over."""


class Silent:
    """An observer that prints nothing; see `Observer`."""

    def setting(self, device: str, hyperparameters: Sequence[str], folder: Path) -> None:
        """Nothing."""

    def step(self) -> None:
        """Nothing."""

    def context_done(self, cells: Sequence[Cell]) -> None:
        """Nothing."""

    def finished(self, matrix: Matrix, summary: Summary, folder: Path) -> None:
        """Nothing."""

    def stopped(self, summary: Summary, folder: Path) -> None:
        """Nothing."""

    def __enter__(self) -> Self:
        """Nothing."""
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing."""


class Several:
    """Tells several observers, in order; see `Observer`.

    Args:
        observers: the last one may raise in `context_done`, the others have been told by then.
    """

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = observers
        self._entered = ExitStack()

    def setting(self, device: str, hyperparameters: Sequence[str], folder: Path) -> None:
        """Tell all."""
        for one in self._observers:
            one.setting(device, hyperparameters, folder)

    def step(self) -> None:
        """Tell all."""
        for one in self._observers:
            one.step()

    def context_done(self, cells: Sequence[Cell]) -> None:
        """Tell all."""
        for one in self._observers:
            one.context_done(cells)

    def finished(self, matrix: Matrix, summary: Summary, folder: Path) -> None:
        """Tell all."""
        for one in self._observers:
            one.finished(matrix, summary, folder)

    def stopped(self, summary: Summary, folder: Path) -> None:
        """Tell all."""
        for one in self._observers:
            one.stopped(summary, folder)

    def __enter__(self) -> Self:
        for one in self._observers:
            self._entered.enter_context(one)
        return self

    def __exit__(self, *_: object) -> None:
        self._entered.close()
