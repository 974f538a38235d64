"""Online EWC: the carried Fisher information decays.

    R(theta) = 1/2 sum_i F~_i (theta_i - theta*_i)^2,    F~ after a context = gamma * F~ before + F of the context

(Schwarz et al., "Progress & Compress", ICML 2018, section 4.1). The published penalty scales the carried Fisher by
gamma once more; with a tuned `reg_strength` that is the same family.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from clsweep.curvature.fisher import DiagonalOptions, diagonal_fisher
from clsweep.hyperparameters import NOT_NEGATIVE, SHARE, hyperparameter
from clsweep.methods.base import Anchored, Finished, added
from clsweep.parameters import NamedTensors


@dataclass(eq=False)
class OnlineEWC(Anchored):
    """The Fisher information of all contexts, of which the earlier ones weigh less.

    Attributes:
        gamma: what the carried information is multiplied with at each context's end.
        fisher: how it is estimated.
    """

    factor = 0.5
    reg_strength: float = hyperparameter(1.0, NOT_NEGATIVE, "tag(log, interval(1, 1e13))")
    gamma: float = hyperparameter(1.0, SHARE, "interval(0.05, 1)")
    fisher: DiagonalOptions = field(default_factory=DiagonalOptions)

    def updated(self, finished: Finished) -> NamedTensors:
        """F~ = gamma * F~ before + F of the context."""
        decayed = {key: self.gamma * value for key, value in self.importance.items()}
        return added(decayed, diagonal_fisher(self.model, finished.dataset, self.fisher))
