"""Elastic weight consolidation with the latest anchor.

    R(theta) = 1/2 sum_i (sum_t F_{t,i}) (theta_i - theta*_i)^2

with F_t the diagonal Fisher information of context t at its end and theta* the parameters at the end of the previous
context: the form of Huszár, "Note on the quadratic penalties in elastic weight consolidation" (PNAS 2018, equation 5),
and of the published harness. The form with one spring per context is `ewc_separate`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from clsweep.curvature.fisher import diagonal_fisher
from clsweep.methods.contract import NamedTensors
from clsweep.methods.quadratic import weighted_squares
from clsweep.networks import Classifier

USES_PATH_INTEGRAL = False
PENALTY_IS_PURE = True
HYPERPARAMETERS = ("reg_strength",)


def estimate_importance(
    model: Classifier, dataset: TensorDataset, prev_params: NamedTensors, device: torch.device
) -> NamedTensors:
    """The diagonal Fisher information of this context; the loop adds it to the earlier ones.

    Returns:
        By key, a tensor shaped as the parameter.
    """
    return diagonal_fisher(model, dataset)


def compute_regularization_loss(
    model: Classifier, importance_dict: NamedTensors, prev_params_dict: NamedTensors
) -> Tensor:
    """1/2 sum_i F_i (theta_i - theta*_i)^2, a differentiable scalar."""
    return 0.5 * weighted_squares(model, importance_dict, prev_params_dict)


def quadratic_penalty(
    model: Classifier, importance_dict: NamedTensors, prev_params_dict: NamedTensors
) -> tuple[NamedTensors, NamedTensors]:
    """F/2, around theta*: coefficients and centres, by key."""
    return {key: 0.5 * value for key, value in importance_dict.items()}, prev_params_dict
