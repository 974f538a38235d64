"""Online EWC: the carried Fisher information decays.

    R(theta) = 1/2 sum_i F~_i (theta_i - theta*_i)^2,    F~ after a context = gamma * F~ before + F of the context

(Schwarz et al., "Progress & Compress", ICML 2018, section 4.1). The published penalty scales the carried Fisher by
gamma once more; with a tuned `reg_strength` that is the same family.
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
HYPERPARAMETERS = ("reg_strength", "gamma")


def estimate_importance(
    model: Classifier, dataset: TensorDataset, prev_params: NamedTensors, device: torch.device
) -> NamedTensors:
    """What takes the carried Fisher information to gamma * carried + new: the loop adds it.

    Returns:
        By key, a tensor shaped as the parameter.
    """
    carried = model._custom_importance
    new = diagonal_fisher(model, dataset)
    decay = model.gamma - 1
    return {key: decay * carried[key] + value if key in carried else value for key, value in new.items()}


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
