"""What the loggers have in common: a run as named numbers over contexts and iterations."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from clsweep.training.observers import Observer, Started

if TYPE_CHECKING:
    from torch import Tensor

    from clsweep.results import Summary
    from clsweep.results.curves import Point
    from clsweep.results.metrics import Cell, Matrix

CONTEXTS, ITERATIONS = "contexts_learned", "iteration"
_ITERATIONS_BETWEEN_LOSSES: Final = 50
_FINAL: Final = (
    "average_accuracy",
    "validation_average_accuracy",
    "min_accuracy",
    "worst_case_accuracy",
    "learning_accuracy",
    "forgetting",
    "backward_transfer",
    "train_seconds",
    "importance_seconds",
    "eval_seconds",
    "iters_per_second",
    "peak_memory_mib",
)


class Scalars(Observer):
    """A logger to derive from: it turns what a run tells into numbers; `begin`, `log` and `end` write them.

    Over the contexts learned so far: `test/mean_of_learned`, the average accuracy on them, and `test/context_01` and so
    on, the accuracy on each (`validation/...` where data is held out). Over the iterations `train/loss`, at the first
    of every fifty (see `Observer.step`), and with `evaluate_every` the same accuracies as `curve/test/...`, that on the
    context in training among them. In the end `final/average_accuracy` and the other metrics and times of
    `summary.csv`, those that are defined. Accuracies run from 0 to 1.
    """

    def __init__(self) -> None:
        self._iterations = 0

    @abstractmethod
    def begin(self, run: Started) -> None:
        """A run starts; its `values` are what is to be written down as its setting."""

    @abstractmethod
    def log(self, scalars: Mapping[str, float], axis: str, at: int) -> None:
        """Write some numbers.

        Args:
            scalars: by name.
            axis: what they are over, `CONTEXTS` or `ITERATIONS`.
            at: how many of those there were.
        """

    @abstractmethod
    def end(self, status: str) -> None:
        """The run is over; nothing follows.

        Args:
            status: how it ended, as in `summary.csv`.
        """

    def setting(self, run: Started) -> None:
        self.begin(run)

    def restored(self, measured: Sequence[Sequence[Cell]], iterations: int) -> None:
        """Log what an earlier part of the run has measured, and go on counting."""
        super().restored(measured, iterations)
        self._iterations = iterations

    def step(self, loss: Tensor) -> None:
        """Log the loss, seldom."""
        self._iterations += 1
        if self._iterations % _ITERATIONS_BETWEEN_LOSSES == 1:
            self.log({"train/loss": float(loss)}, ITERATIONS, self._iterations)

    def evaluated(self, points: Sequence[Point]) -> None:
        """Log the accuracies on the contexts so far."""
        scalars = {f"curve/{name}": value for name, value in _accuracies(points).items()}
        self.log(scalars, ITERATIONS, points[0].overall_iteration)

    def context_done(self, cells: Sequence[Cell]) -> None:
        """Log the accuracies on the contexts learned so far."""
        after = cells[0].after_context
        scalars = _accuracies([cell for cell in cells if cell.context <= after])
        if scalars:  # none for the untrained network
            self.log(scalars, CONTEXTS, after)

    def finished(self, matrix: Matrix, summary: Summary) -> None:
        final = {f"final/{name}": float(getattr(summary, name)) for name in _FINAL}
        defined = {name: value for name, value in final.items() if not math.isnan(value)}
        self.log(defined, CONTEXTS, matrix.shape[1])
        self.end(summary.status)

    def stopped(self, summary: Summary) -> None:
        self.end(summary.status)


def _accuracies(measured: Sequence[Cell | Point]) -> dict[str, float]:
    """The accuracy on each context, and their mean, by name."""
    scalars = {f"{one.split}/context_{one.context:02d}": one.accuracy for one in measured}
    for split in dict.fromkeys(one.split for one in measured):
        accuracies = [one.accuracy for one in measured if one.split == split]
        scalars[f"{split}/mean_of_learned"] = sum(accuracies) / len(accuracies)
    return scalars
