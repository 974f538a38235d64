"""The quadratic penalty sum_i c_i (theta_i - anchor_i)^2, value and gradient in one evaluation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from clsweep.networks import Classifier
from clsweep.parameters import NamedTensors, contract_parameters


class _WeightedSquares(torch.autograd.Function):
    """sum_i c_i (theta_i - anchor_i)^2 over several tensors.

    Autograd would keep and walk through every intermediate; here the gradient 2 c (theta - anchor) is a by-product of
    the value.
    """

    @staticmethod
    def forward(ctx: Any, coefficients: list[Tensor], anchors: list[Tensor], *parameters: Tensor) -> Tensor:
        differences = torch._foreach_sub(parameters, anchors)
        half_gradients = torch._foreach_mul(differences, coefficients)
        ctx.half_gradients = half_gradients
        terms = [torch.dot(d.flatten(), g.flatten()) for d, g in zip(differences, half_gradients, strict=True)]
        return torch.stack(terms).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        # Out of place, since autograd may call this twice for one forward (retain_graph).
        return None, None, *torch._foreach_mul(ctx.half_gradients, 2 * upstream[0])


def weighted_squares(model: Classifier, coefficients: NamedTensors, anchors: NamedTensors) -> Tensor:
    """sum_i c_i (theta_i - anchor_i)^2 over the keys of `coefficients`.

    Args:
        model: the network with the parameters theta.
        coefficients: c, by key, each shaped as its parameter.
        anchors: by key, for at least the keys of `coefficients`.

    Returns:
        A differentiable scalar; 0 where `coefficients` is empty.
    """
    parameters = contract_parameters(model)
    keys = [key for key in coefficients if key in parameters]
    if not keys:
        return next(iter(parameters.values())).new_zeros((), requires_grad=True)
    penalty: Tensor = _WeightedSquares.apply(
        [coefficients[key] for key in keys], [anchors[key] for key in keys], *(parameters[key] for key in keys)
    )
    return penalty
