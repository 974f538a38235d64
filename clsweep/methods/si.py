"""Synaptic Intelligence.

    R(theta) = sum_i Omega_i (theta_i - theta*_i)^2,    Omega_i = sum_t W_{t,i} / (Delta_{t,i}^2 + epsilon)

with W_t the path integral of -gradient * update over context t, which the loop keeps in `model._custom_W`, and Delta_t
the parameters' change over the context (Zenke, Poole & Ganguli, "Continual learning through synaptic intelligence",
ICML 2017, equations 4 and 5).

The gradient in W_t is that of the total loss, task and penalty, as in van de Ven's code, which the published figures
come from. In Zenke et al. it is that of the task's loss alone. In the first context, which has no penalty, both are the
same; later, where the penalty pulls a parameter back, they are not.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from clsweep.methods.contract import NamedTensors, contract_parameters
from clsweep.methods.quadratic import weighted_squares
from clsweep.networks import Classifier

PENALTY_IS_PURE = True
HYPERPARAMETERS = ("reg_strength", "epsilon")


def estimate_importance(
    model: Classifier, dataset: TensorDataset, prev_params: NamedTensors, device: torch.device
) -> NamedTensors:
    """W / (Delta^2 + epsilon) of this context.

    Noise makes W negative here and there, and with it the importance. With `model.floor_at_zero` the carried
    importance, earlier contexts' and this one's, is kept at zero or above.

    Returns:
        By key, a tensor shaped as the parameter.
    """
    path_integral = model._custom_W
    carried = model._custom_importance
    importance = {}
    for key, p in contract_parameters(model).items():
        change = p.detach() - prev_params[key]
        importance[key] = path_integral[key] / (change.square() + model.epsilon)
        if getattr(model, "floor_at_zero", False):
            before = carried.get(key, torch.zeros_like(change))
            importance[key] = (before + importance[key]).clamp_min(0) - before
    return importance


def compute_regularization_loss(
    model: Classifier, importance_dict: NamedTensors, prev_params_dict: NamedTensors
) -> Tensor:
    """sum_i Omega_i (theta_i - theta*_i)^2, a differentiable scalar."""
    return weighted_squares(model, importance_dict, prev_params_dict)


def quadratic_penalty(
    model: Classifier, importance_dict: NamedTensors, prev_params_dict: NamedTensors
) -> tuple[NamedTensors, NamedTensors]:
    """Omega, around theta*: coefficients and centres, by key."""
    return importance_dict, prev_params_dict
