"""Gradient projection memory.

    Delta [W b] = -lr (g - g M M^T)

for each linear and convolutional layer, with g the gradient with respect to its [W b] and M, in orthonormal columns,
the directions that held most of the layer's inputs in the earlier contexts (Saha, Garg & Roy, "Gradient projection
memory for continual learning", ICLR 2021, equations 6 and 7). After a context with the representation R, the layer's
inputs in columns, the leading left singular vectors of R^ = R - M M^T R join M (equation 8), as few as explain, with
what M holds already, the share epsilon of the whole (equation 9; 5 for the first context):

    ||M M^T R||_F^2 + ||R^_k||_F^2 >= epsilon ||R||_F^2.

Singular vectors and squared singular values of R are the eigenvectors and eigenvalues of R R^T, which is all that is
collected: over all examples of the context, where the paper draws 125 to 300. An input has a 1 appended where the layer
has a bias, which the paper's layers don't; of a convolution it is a patch. As in the authors' code, epsilon may rise
from context to context (Split-CIFAR100: 0.97 and 0.003 a context; Permuted-MNIST: 0.95 in the first layer and 0.99 in
the others, without a rise; here all layers have the same), heads of the context's own are free, and normalization
layers are frozen after the first context (see `preconditioned`).

The optimizer is the run's: the paper's steps are those of SGD, and only they stay where the projection leaves them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clsweep.curvature.kronecker import Keys, separated
from clsweep.hyperparameters import NOT_NEGATIVE, SHARE, hyperparameter
from clsweep.methods.base import state
from clsweep.methods.preconditioned import Change, Projected
from clsweep.parameters import NamedTensors


@dataclass(eq=False)
class GPM(Projected):
    """Gradients are projected onto the complement of the directions that held most of the earlier inputs.

    Attributes:
        threshold: epsilon in the first context, the share of the inputs' squares that M is to hold.
        rise: what epsilon is raised by in each further context, up to 1.
        bases: M of each layer, [columns, directions], by its joined keys.
        contexts: how many have ended.
    """

    threshold: float = hyperparameter(0.97, SHARE, "interval(0.8, 0.999)")
    rise: float = hyperparameter(0.003, NOT_NEGATIVE, "interval(0, 0.01)")
    bases: NamedTensors = state()
    contexts: int = state(int)

    def take(self, covariances: NamedTensors) -> None:
        """Add the context's leading directions."""
        share = min(1.0, self.threshold + self.rise * self.contexts)
        grown = {
            layer: _grown(self.bases.get(layer, covariance[:, :0]), covariance, share)
            for layer, covariance in covariances.items()
        }
        self.bases = self.bases | grown
        self.contexts += 1

    def layers(self) -> list[Keys]:
        return [separated(layer) for layer in self.bases]

    def projection(self, layer: str) -> Change:
        """To g - (g M) M^T."""
        basis = self.bases[layer]
        return lambda gradient: torch.addmm(gradient, gradient @ basis, basis.T, alpha=-1)


def _grown(basis: Tensor, covariance: Tensor, share: float) -> Tensor:
    """M with as few more directions as it needs to hold a share of the trace of R R^T; computed in float64."""
    known, whole = basis.double(), covariance.double()
    complement = torch.eye(len(whole), dtype=whole.dtype, device=whole.device) - known @ known.T
    values, directions = torch.linalg.eigh(complement @ whole @ complement)
    values, directions = values.flip(0).clamp_min(0), directions.flip(1)
    held = whole.trace() - values.sum() + torch.cat([values.new_zeros(1), values.cumsum(0)])
    rounding = 10 * torch.finfo(covariance.dtype).eps * whole.trace()
    there = min(int((values > rounding).sum()), len(whole) - known.shape[1])
    needed = min(int((held < share * whole.trace()).sum()), there)
    joined: Tensor = torch.linalg.qr(torch.cat([known, directions[:, :needed]], 1)).Q
    return joined.to(basis.dtype)
