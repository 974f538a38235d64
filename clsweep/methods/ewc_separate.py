"""Elastic weight consolidation with one spring per context.

    R(theta) = 1/2 sum_t sum_i F_{t,i} (theta_i - theta*_{t,i})^2

(Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks", PNAS 2017, equation 3, extended to several
contexts as described there). A sum of springs is one spring: with F = sum_t F_t and the centre
m = sum_t F_t theta*_t / F,

    sum_t F_t (theta - theta*_t)^2 = F (theta - m)^2 + a constant,

so cost and memory don't depend on the number of contexts. Centre and constant are kept as running values: a new spring
(F_t, theta*_t) moves the centre by F_t / (F + F_t) (theta*_t - m) and adds F F_t / (F + F_t) (theta*_t - m)^2 to the
constant.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from clsweep.curvature.fisher import DiagonalOptions, diagonal_fisher
from clsweep.hyperparameters import NOT_NEGATIVE, hyperparameter
from clsweep.methods.base import Finished, Quadratic, Squares, state
from clsweep.parameters import NamedTensors, snapshot


@dataclass(eq=False)
class SeparateEWC(Quadratic):
    """The springs of all contexts, as one.

    Attributes:
        fisher: how the Fisher information is estimated.
        stiffness: F, by key.
        centre: m, by key.
        constant: the sum of squares that is left at the centre, a scalar.
    """

    reg_strength: float = hyperparameter(1.0, NOT_NEGATIVE, "tag(log, interval(1, 1e13))")
    fisher: DiagonalOptions = field(default_factory=DiagonalOptions)
    stiffness: NamedTensors = state()
    centre: NamedTensors = state()
    constant: Tensor = state(lambda: torch.zeros(()))

    @property
    def strength(self) -> float:
        return self.reg_strength

    def learn(self, finished: Finished) -> None:
        """Take the context's spring, of stiffness F_t and centre theta*_t, into the sum."""
        new = diagonal_fisher(self.model, finished.dataset, self.fisher)
        here = snapshot(self.model)
        centre = self.centre or dict(here)
        constant = self.constant.to(finished.device)
        for key, fisher in new.items():
            before = self.stiffness.get(key, torch.zeros_like(fisher))
            share = torch.nan_to_num(fisher / (before + fisher))  # 0/0: no spring at all, any centre will do
            step = here[key] - centre[key]
            centre = centre | {key: centre[key] + share * step}
            constant = constant + (before * share * step.square()).sum()
            self.stiffness = self.stiffness | {key: before + fisher if key in self.stiffness else fisher}
        self.centre, self.constant = centre, constant

    def squares(self) -> Squares:
        """F/2, around the common centre."""
        halved = {key: 0.5 * value for key, value in self.stiffness.items()}
        return Squares(halved, self.centre, 0.5 * self.constant)
