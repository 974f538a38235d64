"""Riemannian walk.

    R(theta) = sum_i (F^_i + s^_i) (theta_i - theta*_i)^2

with the running Fisher information F~ and the score s~, each scaled to [0, 1] over all parameters together:
x^ = (x~ - min x~) / (max x~ - min x~) (Chaudhry, Dokania, Ajanthan & Torr, "Riemannian walk for incremental learning:
understanding forgetting and intransigence", ECCV 2018). After context t,

    F~_t = alpha F_t + (1 - alpha) F~_{t-1},                        alpha = 1 / (1 + gamma);  F~_1 = F_1
    s_t  = max(0, W_t) / (1/2 F~_t Delta_t^2 + epsilon)
    s~_t = 1/2 (s~_{t-1} + s_t),                                    s~_1 = s_1

with W_t the path integral of -gradient * update, the loss that the parameter took away, and Delta_t its change: the
score is the loss per distance, which the Fisher information measures, in KL divergence, on the manifold of the
network's output distributions. The score alone is averaged over contexts, lest the penalty become more rigid with each.

What differs from the paper, as the loop gives path integral and examples once a context:

- One distance a context, from its start to its end; in the paper s_t is a sum over intervals of a few steps (ten in the
  authors' experiments), each with its own loss, change and Fisher information, and floored at zero on its own.
- F_t is the Fisher information at the context's end, over the model's own labels (`fisher`), and the average is over
  contexts; in the paper it is the empirical one of minibatches, averaged over steps with alpha = 0.9, so that next to
  nothing is left of earlier contexts. Here the first context weighs gamma times as much as the second, and each later
  one gamma / (1 + gamma) times as much as the next: half at gamma = 1, where Online EWC's contexts all weigh alike.
- W_t is that of the whole loss, penalty included, as the loop keeps it (as for `si`); the paper's is the task's loss.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from clsweep.curvature.fisher import diagonal_fisher
from clsweep.methods.contract import NamedTensors, contract_parameters
from clsweep.methods.quadratic import weighted_squares
from clsweep.networks import Classifier

PENALTY_IS_PURE = True
HYPERPARAMETERS = ("reg_strength", "gamma", "epsilon")
_WALK = "_rwalk"


@dataclass(frozen=True)
class Walk:
    """What is carried from context to context, before it is scaled.

    Attributes:
        fisher: F~, by key.
        score: s~, by key.
    """

    fisher: NamedTensors
    score: NamedTensors


def estimate_importance(
    model: Classifier, dataset: TensorDataset, prev_params: NamedTensors, device: torch.device
) -> NamedTensors:
    """What takes the carried importance to F^ + s^: the loop adds it.

    Returns:
        By key, a tensor shaped as the parameter.
    """
    carried: Walk = getattr(model, _WALK, Walk({}, {}))
    new = diagonal_fisher(model, dataset)
    fisher = {key: _running_mean(carried.fisher.get(key), value, model.gamma) for key, value in new.items()}
    score = {
        key: _running_mean(carried.score.get(key), value, 1.0)
        for key, value in _scores(model, fisher, prev_params).items()
    }
    setattr(model, _WALK, Walk(carried.fisher | fisher, carried.score | score))  # a frozen parameter keeps its own
    scaled_fisher, scaled_score = _scaled(fisher), _scaled(score)
    before = model._custom_importance
    return {key: value + scaled_score[key] - before.get(key, 0.0) for key, value in scaled_fisher.items()}


def _running_mean(before: Tensor | None, new: Tensor, weight: float) -> Tensor:
    """(new + weight * before) / (1 + weight)."""
    return new if before is None else (new + weight * before) / (1 + weight)


def _scores(model: Classifier, fisher: NamedTensors, prev_params: NamedTensors) -> NamedTensors:
    """max(0, W) / (1/2 F~ Delta^2 + epsilon) of this context, by key."""
    parameters = contract_parameters(model)
    changes = {key: parameters[key].detach() - prev_params[key] for key in fisher}
    return {
        key: model._custom_W[key].clamp_min(0) / (0.5 * fisher[key] * change.square() + model.epsilon)
        for key, change in changes.items()
    }


def _scaled(values: NamedTensors) -> NamedTensors:
    """To [0, 1], over all parameters together; zero where all values are the same."""
    if not values:
        return {}
    low = torch.stack([value.min() for value in values.values()]).min()
    high = torch.stack([value.max() for value in values.values()]).max()
    span = (high - low).clamp_min(torch.finfo(low.dtype).tiny)
    return {key: (value - low) / span for key, value in values.items()}


def compute_regularization_loss(
    model: Classifier, importance_dict: NamedTensors, prev_params_dict: NamedTensors
) -> Tensor:
    """sum_i (F^_i + s^_i) (theta_i - theta*_i)^2, a differentiable scalar."""
    return weighted_squares(model, importance_dict, prev_params_dict)


def quadratic_penalty(
    model: Classifier, importance_dict: NamedTensors, prev_params_dict: NamedTensors
) -> tuple[NamedTensors, NamedTensors]:
    """F^ + s^, around theta*: coefficients and centres, by key."""
    return importance_dict, prev_params_dict
