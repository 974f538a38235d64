"""Elastic weight consolidation with the latest anchor.

    R(theta) = 1/2 sum_i (sum_t F_{t,i}) (theta_i - theta*_i)^2

with F_t the diagonal Fisher information of context t at its end and theta* the parameters at the end of the previous
context: the form of Huszár, "Note on the quadratic penalties in elastic weight consolidation" (PNAS 2018, equation 5),
and of the published harness. The form with one spring per context is `ewc_separate`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from clsweep.curvature.fisher import DiagonalOptions, diagonal_fisher
from clsweep.hyperparameters import NOT_NEGATIVE, hyperparameter
from clsweep.methods.base import Anchored, Finished, added
from clsweep.parameters import NamedTensors


@dataclass(eq=False)
class EWC(Anchored):
    """The Fisher information of all contexts, around the latest parameters."""

    factor = 0.5
    reg_strength: float = hyperparameter(1.0, NOT_NEGATIVE, "tag(log, interval(1, 1e13))")
    fisher: DiagonalOptions = field(default_factory=DiagonalOptions)

    def updated(self, finished: Finished) -> NamedTensors:
        """The sum of the contexts' Fisher information."""
        return added(self.importance, diagonal_fisher(self.model, finished.dataset, self.fisher))
