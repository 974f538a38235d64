"""Orthogonal weights modification.

    Delta [W b] = -lr g P,    P = (I + (1/alpha) sum_t A_t)^-1

for each linear and convolutional layer, with g the gradient with respect to its [W b] and A_t = E[a a^T] over the
examples of the earlier context t, a the layer's input with a 1 appended (of a convolution the sum over patches). P is
about the projector onto the directions that hold little of any earlier input, so the layer's outputs for these inputs
stay
(Zeng, Chen, Cui & Yu, "Continual learning of context-dependent processing in neural networks", Nature Machine
Intelligence 2019: P = I - X (X^T X + alpha I)^-1 X^T with the earlier inputs in the columns of X, which is this with
X X^T for sum_t A_t).

After a context, P <- (P^-1 + A_t / alpha)^-1, the recursive least squares of the paper for all examples of the context
at once, as in Kao et al. ("Natural continual learning", NeurIPS 2021). What differs from the paper:

- The recursion there takes the mean input of each minibatch while it trains, and alpha may decay within a context; here
  every example counts, at the context's end, with one alpha. A_t is a mean, so that alpha is in units of a mean square
  and contexts of unequal size weigh alike. Kao et al. divide the sum by the number of contexts.
- A head of the context's own is free; other layers than linear ones and convolutions are frozen (see `preconditioned`).
- The optimizer is the run's: the paper's steps are those of SGD, and only they stay where P leaves them.
"""

from __future__ import annotations

from dataclasses import dataclass

from clsweep.curvature.kronecker import Keys, separated
from clsweep.hyperparameters import POSITIVE, hyperparameter
from clsweep.methods.base import added, state
from clsweep.methods.preconditioned import Change, Projected, damped_inverse
from clsweep.parameters import NamedTensors


@dataclass(eq=False)
class OWM(Projected):
    """Gradients are multiplied with P, which the second moments of all earlier inputs define.

    Attributes:
        alpha: the mean square of the inputs in a direction, summed over contexts, that halves the gradient in it.
        covariances: sum_t A_t of each layer, [columns, columns], by its joined keys.
    """

    alpha: float = hyperparameter(1e-3, POSITIVE, "tag(log, interval(1e-6, 10))")
    covariances: NamedTensors = state()

    def take(self, covariances: NamedTensors) -> None:
        """Add the context's to the sum."""
        self.covariances = self.covariances | added(self.covariances, covariances)

    def layers(self) -> list[Keys]:
        return [separated(layer) for layer in self.covariances]

    def projection(self, layer: str) -> Change:
        """To g P."""
        projector = damped_inverse(self.covariances[layer], 1 / self.alpha)
        return lambda gradient: gradient @ projector
