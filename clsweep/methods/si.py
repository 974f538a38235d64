"""Synaptic Intelligence.

    R(theta) = sum_i Omega_i (theta_i - theta*_i)^2,    Omega_i = sum_t W_{t,i} / (Delta_{t,i}^2 + epsilon)

with W_t the path integral of -gradient * update over context t, which the loop keeps, and Delta_t
the parameters' change over the context (Zenke, Poole & Ganguli, "Continual learning through synaptic intelligence",
ICML 2017, equations 4 and 5).

The gradient in W_t is that of the total loss, task and penalty, as in van de Ven's code, which the published figures
come from. In Zenke et al. it is that of the task loss alone. In the first context, which has no penalty, both are the
same; later, where the penalty pulls a parameter back, they are not.
"""

from __future__ import annotations

from dataclasses import dataclass

from clsweep.hyperparameters import NOT_NEGATIVE, POSITIVE, TRUTH, hyperparameter, option
from clsweep.methods.base import Anchored, Finished, added
from clsweep.parameters import NamedTensors, distinct_parameters


@dataclass(eq=False)
class SI(Anchored):
    """The loss that a parameter took away over the contexts, per squared distance.

    Attributes:
        epsilon: damps the squared distance.
        floor_at_zero: whether Omega, which noise makes negative here and there, is kept at zero or above.
    """

    uses_path_integral = True
    reg_strength: float = hyperparameter(1.0, NOT_NEGATIVE, "tag(log, interval(1e-3, 1e5))")
    epsilon: float = hyperparameter(0.1, POSITIVE, "tag(log, interval(1e-6, 10))")
    floor_at_zero: bool = option(False, TRUTH)

    def updated(self, finished: Finished) -> NamedTensors:
        """Omega, with this context's W / (Delta^2 + epsilon) added."""
        parameters = distinct_parameters(self.model)
        changes = {key: p.detach() - finished.start[key] for key, p in parameters.items()}
        totals = finished.path.totals
        new = {key: totals[key] / (change.square() + self.epsilon) for key, change in changes.items()}
        omega = added(self.importance, new)
        return {key: value.clamp_min(0) for key, value in omega.items()} if self.floor_at_zero else omega
