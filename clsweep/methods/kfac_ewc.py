"""Elastic weight consolidation with a Kronecker-factored Fisher information.

    R(theta) = 1/2 sum_l <D_l, G_l D_l A_l>,    D_l = [W_l b_l] - [W*_l b*_l]

over the linear and convolutional layers l, with theta* the parameters at the end of the previous context and G_l ⊗ A_l
the layer's carried curvature (see `kronecker`); layers that have no such factors (normalization, attention,
embeddings, ...) keep the diagonal Fisher information, as in `ewc`.

This is the online structured Laplace approximation of Ritter, Botev & Barber ("Online structured Laplace approximations
for overcoming catastrophic forgetting", NeurIPS 2018): after each context its curvature there, block-diagonal with
Kronecker factors and times a tuned strength, is added to the precision of the Gaussian posterior, whose mean moves to
the latest parameters (the recursion of equation 7).

The contexts' sum is a weighted sum of the G_t times a weighted sum of the A_t (see `factored`). Plain sums of both
would count T equal contexts T² times, and so do the sums that are weighted by ratios of traces in the code of van de
Ven et al. (2022), after Kao et al. ("Natural continual learning", NeurIPS 2021). There is no prior precision: the first
context is trained without a penalty. The curvature is a mean over the examples, where that of the posterior is a sum:
contexts of unequal size weigh alike.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from clsweep.curvature.kronecker import kronecker_squares
from clsweep.methods.factored import Factored
from clsweep.methods.quadratic import weighted_squares


@dataclass(eq=False)
class KfacEWC(Factored):
    """The Fisher information of all contexts in Kronecker factors, around the latest parameters."""

    def penalty(self, *, is_first: bool) -> Tensor:
        """1/2 sum_l <D_l, G_l D_l A_l>, plus 1/2 sum_i F_i (theta_i - theta*_i)^2 of the other layers: a scalar."""
        penalty = kronecker_squares(self.model, self.curvature, self.anchor)
        if self.diagonal:
            penalty = penalty + weighted_squares(self.model, self.diagonal, self.anchor)
        return 0.5 * penalty
