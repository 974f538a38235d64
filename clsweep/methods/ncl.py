"""Natural continual learning.

The posterior of the earlier contexts, a Gaussian with mean theta* and precision Lambda, is the prior of the next one,
and a step is the steepest one on loss and prior within a trust region in the metric of Lambda (Kao, Jensen, van de Ven,
Bernacchia & Hennequin, "Natural continual learning: success is a journey, not (just) a destination", NeurIPS 2021,
section 2 and algorithm 1):

    Delta theta ∝ -(1/n) Lambda^-1 (grad loss + reg_strength Lambda (theta - theta*))
                = -(1/n) Lambda^-1 grad loss - (reg_strength / n) (theta - theta*)

with Lambda = I / n + F, counted for one example: a prior of precision 1 before the first context, over `data_size` = n
examples, and the sum F of the earlier contexts' Fisher information. The factor 1/n makes the step that of SGD in a
direction that no context cared about, as in the authors' code. The second line is what is computed: once it is
preconditioned, the penalty's gradient is that of a spring of the same stiffness everywhere, which takes no product.

F is block-diagonal, G ⊗ A for each linear and convolutional layer (see `kronecker`), to which the prior is added as

    I / n + G ⊗ A ≈ (G + 1/(pi sqrt(n)) I) ⊗ (A + pi/sqrt(n) I),    pi² = mean eigenvalue of A / mean eigenvalue of G

(Martens & Grosse, ICML 2015, section 6.3, as van de Ven's code does), so that the inverse multiplies the gradient by
[W b] from both sides; for the parameters of all other layers it is diagonal. An output that no context had, such as
those of heads to come, has no curvature and the prior's precision alone: its row is no part of G, whose damping would
put A / (pi sqrt(n)) there, and its gradient stays as it is. What differs from the paper:

- The contexts' Kronecker products are summed as in `kfac_ewc`, keeping the partial traces. The paper minimizes a
  divergence, van de Ven's code weighs sums of the factors, with which T equal contexts count T² times.
- The first context is trained without the prior, whose metric is that of SGD and whose pull to zero is 1/n.
- The paper adds a small alpha before it inverts (1e-10 in the code for feedforward networks), which the prior and
  float64 make unnecessary.
- The optimizer is the run's: the paper's is SGD with momentum, beginning anew in each context
  (optimizer=sgd optimizer.momentum=0.9 optimizer.reset=true).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from clsweep.curvature.kronecker import Factors, Keys
from clsweep.hyperparameters import NOT_NEGATIVE, POSITIVE, hyperparameter
from clsweep.methods.base import Finished, Squares
from clsweep.methods.factored import Factored
from clsweep.methods.preconditioned import Applied, Change, Preconditioned, damped_inverse


@dataclass(eq=False)
class NCL(Factored, Preconditioned):
    """The gradient in the metric of the earlier contexts' precision, and a pull to the latest parameters.

    Attributes:
        reg_strength: how much the prior counts in the loss, 1 in the paper.
        data_size: n, the number of examples that a prior of precision 1 is for; about a context's.
    """

    reg_strength: float = hyperparameter(1.0, NOT_NEGATIVE, "tag(log, interval(1e-2, 1e4))")
    data_size: float = hyperparameter(12_000.0, POSITIVE, "tag(log, interval(10, 1e8))")

    def learn(self, finished: Finished) -> None:
        """Add the context's Fisher information, and move the mean."""
        super().learn(finished)
        self.refuse_half_frozen()

    def layers(self) -> list[Keys]:
        return list(self.curvature)

    def squares(self) -> Squares:
        """1/(2 n) around the anchor: its gradient is the penalty's, once (1/n) Lambda^-1 has multiplied that."""
        held = [*(key for keys in self.curvature for key in keys), *self.diagonal]
        stiffness = 0.5 / self.data_size
        return Squares({key: torch.full_like(self.anchor[key], stiffness) for key in held}, self.anchor)

    def prepared(self, parameters: dict[str, nn.Parameter]) -> Applied:
        """(1/n) Lambda^-1; see `Preconditioned`."""
        layers = [([parameters[key] for key in keys], self._metric(one)) for keys, one in self.curvature.items()]
        scales = [(parameters[key], 1 / (1 + self.data_size * value)) for key, value in self.diagonal.items()]
        return Applied(layers, scales, [])

    def _metric(self, fisher: Factors) -> Change:
        """To (1/n) (G + 1/(pi sqrt(n)) I)^-1 g (A + pi/sqrt(n) I)^-1 in the rows of outputs that have a curvature."""
        rows = fisher.outputs.diagonal().nonzero().squeeze(1)
        if not len(rows):
            return lambda gradient: gradient
        outputs = fisher.outputs[rows][:, rows]
        balance = math.sqrt(_mean_eigenvalue(fisher.inputs) / _mean_eigenvalue(outputs))
        root = math.sqrt(self.data_size)
        left = damped_inverse(outputs, balance * root)
        right = damped_inverse(fisher.inputs, root / balance)
        if len(rows) == len(fisher.outputs):
            return lambda gradient: left @ gradient @ right
        return lambda gradient: gradient.index_copy(0, rows, left @ gradient[rows] @ right)


def _mean_eigenvalue(matrix: Tensor) -> float:
    """Above 0."""
    return max(float(matrix.double().trace()) / len(matrix), 1e-30)
