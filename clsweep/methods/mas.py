"""Memory Aware Synapses.

    R(theta) = sum_i Omega_i (theta_i - theta*_i)^2,    Omega_i = sum_t (1/N_t) sum_n | d ||f(x_n)||^2 / d theta_i |

with f the logits of the context's active classes (Aljundi et al., "Memory Aware Synapses: learning what (not) to
forget", ECCV 2018, equations 2 to 4, with the squared l2 norm of section 4.1). Labels are not used.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from clsweep.curvature.per_example import sum_over_examples
from clsweep.curvature.phi import Absolute
from clsweep.methods.contract import NamedTensors
from clsweep.methods.quadratic import weighted_squares
from clsweep.networks import Classifier

USES_PATH_INTEGRAL = False
PENALTY_IS_PURE = True
HYPERPARAMETERS = ("reg_strength",)


def squared_norm(logits: Tensor, labels: Tensor) -> Iterator[Tensor]:
    """The gradient of ||f||^2 with respect to the logits, 2 f [B, C], once."""
    yield 2 * logits


def estimate_importance(
    model: Classifier, dataset: TensorDataset, prev_params: NamedTensors, device: torch.device
) -> NamedTensors:
    """The mean over the context's examples of the absolute gradient of the squared norm of the logits.

    Returns:
        By key, a tensor shaped as the parameter, every element 0 or more.
    """
    inputs, labels = dataset.tensors
    sums = sum_over_examples(model, inputs, labels, squared_norm, Absolute())
    return {key: value / len(inputs) for key, value in sums.items()}


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
