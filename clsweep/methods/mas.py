"""Memory Aware Synapses.

    R(theta) = sum_i Omega_i (theta_i - theta*_i)^2,    Omega_i = sum_t (1/N_t) sum_n | d ||f(x_n)||^2 / d theta_i |

with f the logits of the context's active classes (Aljundi et al., "Memory Aware Synapses: learning what (not) to
forget", ECCV 2018, equations 2 to 4, with the squared l2 norm of section 4.1). Labels are not used.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from clsweep.curvature.per_example import sum_over_examples
from clsweep.curvature.phi import Absolute
from clsweep.hyperparameters import NOT_NEGATIVE, hyperparameter
from clsweep.methods.base import Anchored, Finished, added
from clsweep.parameters import NamedTensors


def squared_norm(logits: Tensor, labels: Tensor) -> Iterator[Tensor]:
    """The gradient of ||f||^2 with respect to the logits, 2 f [B, C], once."""
    yield 2 * logits


@dataclass(eq=False)
class MAS(Anchored):
    """How much the output of all contexts depends on a parameter."""

    reg_strength: float = hyperparameter(1.0, NOT_NEGATIVE, "tag(log, interval(1e-3, 1e5))")

    def updated(self, finished: Finished) -> NamedTensors:
        """Omega, with this context's mean absolute gradient of the logits' squared norm added."""
        inputs, labels = finished.dataset.tensors
        sums = sum_over_examples(self.model, inputs, labels, squared_norm, Absolute())
        return added(self.importance, {key: value / len(inputs) for key, value in sums.items()})
