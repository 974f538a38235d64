"""Elastic weight consolidation with one spring per context.

    R(theta) = 1/2 sum_t sum_i F_{t,i} (theta_i - theta*_{t,i})^2

(Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks", PNAS 2017, equation 3, extended to several
contexts as described there). A sum of springs is one spring: with F = sum_t F_t and the centre
m = sum_t F_t theta*_t / F,

    sum_t F_t (theta - theta*_t)^2 = F (theta - m)^2 + a constant,

so cost and memory don't depend on the number of contexts. Centre and constant are kept as running values: a new spring
(F_t, theta*_t) moves the centre by F_t / (F + F_t) (theta*_t - m) and adds F F_t / (F + F_t) (theta*_t - m)^2 to the
constant.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from clsweep.curvature.fisher import diagonal_fisher
from clsweep.methods.contract import NamedTensors, snapshot
from clsweep.methods.quadratic import weighted_squares
from clsweep.networks import Classifier

USES_PATH_INTEGRAL = False
PENALTY_IS_PURE = True
HYPERPARAMETERS = ("reg_strength",)
_SPRING = "_ewc_separate_spring"


@dataclass(frozen=True)
class Spring:
    """The sum of all springs so far, but for its stiffness, which is the summed importance.

    Attributes:
        centre: m, by key.
        constant: the sum of squares that is left at the centre, a scalar.
    """

    centre: NamedTensors
    constant: Tensor


def estimate_importance(
    model: Classifier, dataset: TensorDataset, prev_params: NamedTensors, device: torch.device
) -> NamedTensors:
    """The diagonal Fisher information of this context; the model's spring takes this context's in.

    Returns:
        By key, a tensor shaped as the parameter.
    """
    new = diagonal_fisher(model, dataset)
    here = snapshot(model)
    spring: Spring = getattr(model, _SPRING, Spring(here, torch.zeros((), device=device)))
    setattr(model, _SPRING, _joined(spring, model._custom_importance, new, here))
    return new


def _joined(spring: Spring, stiffness: NamedTensors, new: NamedTensors, here: NamedTensors) -> Spring:
    """Take one context's spring, of stiffness `new` and centre `here`, into the sum."""
    centre, constant = dict(spring.centre), spring.constant
    for key, fisher in new.items():
        before = stiffness.get(key, torch.zeros_like(fisher))
        share = torch.nan_to_num(fisher / (before + fisher))  # 0/0: no spring at all, any centre will do
        step = here[key] - spring.centre[key]
        centre[key] = spring.centre[key] + share * step
        constant = constant + (before * share * step.square()).sum()
    return Spring(centre, constant)


def compute_regularization_loss(
    model: Classifier, importance_dict: NamedTensors, prev_params_dict: NamedTensors
) -> Tensor:
    """1/2 sum_t sum_i F_{t,i} (theta_i - theta*_{t,i})^2, a differentiable scalar."""
    spring: Spring = getattr(model, _SPRING)
    return 0.5 * (weighted_squares(model, importance_dict, spring.centre) + spring.constant)


def quadratic_penalty(
    model: Classifier, importance_dict: NamedTensors, prev_params_dict: NamedTensors
) -> tuple[NamedTensors, NamedTensors]:
    """F/2, around the common centre: coefficients and centres, by key."""
    return {key: 0.5 * value for key, value in importance_dict.items()}, getattr(model, _SPRING).centre
