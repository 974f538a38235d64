"""A run's accuracies as TensorBoard scalars, in its folder: `tensorboard --logdir outputs`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from clsweep.errors import InputError
from clsweep.results import Summary
from clsweep.results.metrics import Cell, Matrix
from clsweep.training.observers import Silent

try:
    from torch.utils.tensorboard import SummaryWriter
except ImportError as error:
    raise InputError(
        "tensorboard=true: the package tensorboard is not installed; expected pip install 'clsweep[tensorboard]'."
    ) from error


class TensorBoard(Silent):
    """Writes scalars after each context; the steps are the contexts learned.

    `test/mean_of_learned` (and `validation/...` where data is held out) is the mean accuracy over the contexts learned
    so far, `test/context_01` and so on the accuracy on each of them, from 0 to 1; at the end `final/average_accuracy`,
    `final/forgetting` and `final/backward_transfer`.

    Args:
        folder: the run's.
    """

    def __init__(self, folder: Path) -> None:
        self._writer = SummaryWriter(str(folder))

    def context_done(self, cells: Sequence[Cell]) -> None:
        """Write the accuracies on the contexts learned so far."""
        after = cells[0].after_context
        learned = [cell for cell in cells if cell.context <= after]
        for cell in learned:
            self._writer.add_scalar(f"{cell.split}/context_{cell.context:02d}", cell.accuracy, after)
        for split in dict.fromkeys(cell.split for cell in learned):
            mean = float(np.mean([cell.accuracy for cell in learned if cell.split == split]))
            self._writer.add_scalar(f"{split}/mean_of_learned", mean, after)
        self._writer.flush()  # to be seen while the run goes on

    def finished(self, matrix: Matrix, summary: Summary, folder: Path) -> None:
        """Write the final metrics, those that are defined."""
        for name in ("average_accuracy", "forgetting", "backward_transfer"):
            value = getattr(summary, name)
            if not np.isnan(value):
                self._writer.add_scalar(f"final/{name}", value, matrix.shape[1])
        self._writer.close()

    def stopped(self, summary: Summary, folder: Path) -> None:
        """Close the file."""
        self._writer.close()
