"""Elastic weight consolidation with a Kronecker-factored Fisher information.

    R(theta) = 1/2 sum_l <D_l, G_l D_l A_l>,    D_l = [W_l b_l] - [W*_l b*_l]

over the linear and convolutional layers l, with theta* the parameters at the end of the previous context and G_l ⊗ A_l
the layer's carried curvature (see `kronecker`); normalization layers, whose parameters have no such structure, keep
the diagonal Fisher information, as in `ewc`.

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

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from clsweep.curvature.kronecker import Curvature, diagonals_of, kronecker_fisher, kronecker_squares
from clsweep.methods.contract import NamedTensors, contract_parameters
from clsweep.methods.quadratic import weighted_squares
from clsweep.networks import Classifier

USES_PATH_INTEGRAL = False
PENALTY_IS_PURE = True
HYPERPARAMETERS = ("reg_strength",)
_CURVATURE = "_kfac_ewc_curvature"


def estimate_importance(
    model: Classifier, dataset: TensorDataset, prev_params: NamedTensors, device: torch.device
) -> NamedTensors:
    """The diagonal of this context's Fisher information; the model's curvature takes the factors in.

    The penalty uses the diagonal of normalization layers only; that of the others, diag(G) ⊗ diag(A), is there to be
    looked at.

    Returns:
        By key, a tensor shaped as the parameter, every element 0 or more.
    """
    new, diagonals = kronecker_fisher(model, dataset)
    carried: Curvature = getattr(model, _CURVATURE, {})
    joined = {keys: carried[keys].plus(factors) if keys in carried else factors for keys, factors in new.items()}
    setattr(model, _CURVATURE, {**carried, **joined})
    return diagonals | diagonals_of(new, contract_parameters(model))


def compute_regularization_loss(
    model: Classifier, importance_dict: NamedTensors, prev_params_dict: NamedTensors
) -> Tensor:
    """1/2 sum_l <D_l, G_l D_l A_l>, plus 1/2 sum_i F_i (theta_i - theta*_i)^2 of normalization layers: a scalar."""
    curvature: Curvature = getattr(model, _CURVATURE)
    factored = {key for keys in curvature for key in keys}
    diagonals = {key: value for key, value in importance_dict.items() if key not in factored}
    penalty = kronecker_squares(model, curvature, prev_params_dict)
    return 0.5 * (penalty + weighted_squares(model, diagonals, prev_params_dict) if diagonals else penalty)
