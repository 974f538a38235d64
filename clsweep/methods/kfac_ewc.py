"""Elastic weight consolidation with a Kronecker-factored Fisher information.

    R(theta) = 1/2 sum_l <D_l, G_l D_l A_l>,    D_l = [W_l b_l] - [W*_l b*_l]

over the linear and convolutional layers l, with theta* the parameters at the end of the previous context and G_l ⊗ A_l
the layer's carried curvature (see `kronecker`); layers that have no such factors (normalization, attention,
embeddings, ...) keep the diagonal Fisher information, as in `ewc`.

This is the online structured Laplace approximation of Ritter, Botev & Barber ("Online structured Laplace approximations
for overcoming catastrophic forgetting", NeurIPS 2018): after each context its curvature there, block-diagonal with
Kronecker factors and times a tuned strength, is added to the precision of the Gaussian posterior, whose mean moves to
the latest parameters (the recursion of equation 7).

A sum of Kronecker products is none, so that the exact sum would take memory and time for every context. Here it is
replaced by the Kronecker product with its partial traces (`Factors.plus`): a weighted sum of the G_t times a weighted
sum of the A_t. Plain sums of both would count T equal contexts T² times, and so do the sums that are weighted by
ratios of traces in the code of van de Ven et al. (2022), after Kao et al. ("Natural continual learning", NeurIPS 2021).
There is no prior precision: the first context is trained without a penalty. The curvature is a mean over the examples,
where that of the posterior is a sum: contexts of unequal size weigh alike.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from clsweep.curvature.fisher import FisherOptions
from clsweep.curvature.kronecker import Curvature, as_plain, kronecker_fisher, kronecker_squares, of_plain
from clsweep.hyperparameters import NOT_NEGATIVE, hyperparameter
from clsweep.methods.base import BuiltIn, Finished, added, state
from clsweep.methods.quadratic import weighted_squares
from clsweep.parameters import NamedTensors, layers_of, snapshot


@dataclass(eq=False)
class KfacEWC(BuiltIn):
    """The Fisher information of all contexts in Kronecker factors, around the latest parameters.

    Attributes:
        fisher: how it is estimated.
        curvature: G and A of each layer that has them.
        diagonal: the Fisher information's diagonal of the other layers' parameters, by key.
        anchor: theta*, by key.
    """

    reg_strength: float = hyperparameter(1.0, NOT_NEGATIVE, "tag(log, interval(1, 1e9))")
    fisher: FisherOptions = field(default_factory=FisherOptions)
    curvature: Curvature = state()
    diagonal: NamedTensors = state()
    anchor: NamedTensors = state()

    @property
    def strength(self) -> float:
        return self.reg_strength

    def learn(self, finished: Finished) -> None:
        """Take the context's factors and diagonals in, and move the anchor."""
        new, diagonals = kronecker_fisher(self.model, finished.dataset, self.fisher)
        before = self.curvature
        joined = {keys: before[keys].plus(factors) if keys in before else factors for keys, factors in new.items()}
        self.curvature = before | joined
        self.diagonal = self.diagonal | added(self.diagonal, diagonals)
        self.anchor = snapshot(self.model)

    def additions(self) -> list[str]:
        """Which layers have factors, where some have none."""
        if not self.diagonal:
            return []
        factored = layers_of(keys[0] for keys in self.curvature) or "no layer"
        return [f"kfac_ewc has Kronecker factors for {factored}, and the diagonal for {layers_of(self.diagonal)}"]

    def penalty(self, *, is_first: bool) -> Tensor:
        """1/2 sum_l <D_l, G_l D_l A_l>, plus 1/2 sum_i F_i (theta_i - theta*_i)^2 of the other layers: a scalar."""
        penalty = kronecker_squares(self.model, self.curvature, self.anchor)
        if self.diagonal:
            penalty = penalty + weighted_squares(self.model, self.diagonal, self.anchor)
        return 0.5 * penalty

    def state_dict(self) -> dict[str, Any]:
        """The factors as plain tensors, under their keys joined by blanks."""
        return super().state_dict() | {"curvature": as_plain(self.curvature)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        super().load_state_dict(state | {"curvature": of_plain(state["curvature"])})
