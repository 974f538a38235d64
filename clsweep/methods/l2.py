"""L2: every parameter is equally important.

    R(theta) = 1/2 sum_i (theta_i - theta*_i)^2

with theta* the parameters at the end of the previous context: the baseline "L2" of Kirkpatrick et al. (2017), whose
strength doesn't grow with the number of contexts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from clsweep.hyperparameters import NOT_NEGATIVE, hyperparameter
from clsweep.methods.base import Anchored, Finished
from clsweep.parameters import NamedTensors, distinct_parameters


@dataclass(eq=False)
class L2(Anchored):
    """The distance to the parameters at the end of the last context."""

    factor = 0.5
    reg_strength: float = hyperparameter(1.0, NOT_NEGATIVE, "tag(log, interval(1e-3, 1e5))")

    def updated(self, finished: Finished) -> NamedTensors:
        """One for every parameter, after every context."""
        return {key: torch.ones_like(p) for key, p in distinct_parameters(self.model).items()}
