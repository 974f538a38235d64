"""The update in PyTorch's own operations over lists of tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from clsweep.training.update.base import BETAS, EPSILON, ParameterUpdate


class ForeachUpdate(ParameterUpdate):
    """For every device and type; the arithmetic is that of `torch.optim.Adam(fused=True)`."""

    name = "foreach"

    def __init__(self, parameters: Sequence[nn.Parameter], lr: float) -> None:
        super().__init__(parameters, lr)
        # One tensor, so that counting is one operation; a parameter's count is a view.
        self._steps = torch.zeros(len(self._parameters), device=self._parameters[0].device)

    def _arrange(self, numbers: list[int]) -> None:
        moving = [self._parameters[number] for number in numbers]
        self._moved = moving
        self._values = [p.detach() for p in moving]
        self._counted = torch.zeros_like(self._steps)
        self._counted[numbers] = 1
        self._lists = (
            [self._averages[number] for number in numbers],
            [self._square_averages[number] for number in numbers],
            [self._steps[number] for number in numbers],
        )
        self._pulled = [p for p in moving if p in self._springs]
        self._pulled_values = [p.detach() for p in self._pulled]
        self._stiffness = [self._springs[p].doubled_stiffness for p in self._pulled]
        self._centres = [self._springs[p].centre for p in self._pulled]
        self._tracked = [p for p in moving if p in self._path_integrals]
        self._tracked_values = [p.detach() for p in self._tracked]
        self._totals = [self._path_integrals[p].total for p in self._tracked]
        self._positions = [self._path_integrals[p].position for p in self._tracked]
        self._kept = [(k, p) for k, p in zip(self._positions, self._tracked_values, strict=True) if k is not None]

    def _update(self) -> None:
        if not self._moved:
            return
        if self._pulled:
            distances = torch._foreach_sub(self._pulled_values, self._centres)
            torch._foreach_addcmul_(_gradients(self._pulled), distances, self._stiffness)
        before = [
            p.clone() if kept is None else kept for kept, p in zip(self._positions, self._tracked_values, strict=True)
        ]
        self._steps += self._counted
        averages, square_averages, steps = self._lists
        torch._fused_adam_(
            self._values,
            _gradients(self._moved),
            averages,
            square_averages,
            [],
            steps,
            lr=self._lr,
            beta1=BETAS[0],
            beta2=BETAS[1],
            weight_decay=0.0,
            eps=EPSILON,
            amsgrad=False,
            maximize=False,
        )
        if self._tracked:
            changes = torch._foreach_sub(self._tracked_values, before)
            torch._foreach_addcmul_(self._totals, _gradients(self._tracked), changes, value=-1.0)
        if self._kept:
            torch._foreach_copy_([kept for kept, _ in self._kept], [p for _, p in self._kept])


def _gradients(parameters: list[nn.Parameter]) -> list[Tensor]:
    return [p.grad for p in parameters if p.grad is not None]
