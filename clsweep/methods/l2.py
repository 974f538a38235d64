"""L2: every parameter is equally important.

    R(theta) = 1/2 sum_i (theta_i - theta*_i)^2

with theta* the parameters at the end of the previous context: the baseline "L2" of Kirkpatrick et al. (2017), whose
strength doesn't grow with the number of contexts.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from clsweep.methods.contract import NamedTensors, contract_parameters
from clsweep.methods.quadratic import weighted_squares
from clsweep.networks import Classifier

USES_PATH_INTEGRAL = False
PENALTY_IS_PURE = True
HYPERPARAMETERS = ("reg_strength",)


def estimate_importance(
    model: Classifier, dataset: TensorDataset, prev_params: NamedTensors, device: torch.device
) -> NamedTensors:
    """What takes the carried importance to one: ones after the first context, zeros later.

    Returns:
        By key, a tensor shaped as the parameter.
    """
    carried = model._custom_importance
    return {
        key: torch.ones_like(p) - carried.get(key, torch.zeros_like(p)) for key, p in contract_parameters(model).items()
    }


def compute_regularization_loss(
    model: Classifier, importance_dict: NamedTensors, prev_params_dict: NamedTensors
) -> Tensor:
    """1/2 sum_i (theta_i - theta*_i)^2, a differentiable scalar."""
    return 0.5 * weighted_squares(model, importance_dict, prev_params_dict)


def quadratic_penalty(
    model: Classifier, importance_dict: NamedTensors, prev_params_dict: NamedTensors
) -> tuple[NamedTensors, NamedTensors]:
    """1/2 for every parameter, around theta*: coefficients and centres, by key."""
    return {key: 0.5 * value for key, value in importance_dict.items()}, prev_params_dict
