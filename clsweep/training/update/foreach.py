"""The update in PyTorch's own operations over lists of tensors, around any optimizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from clsweep.training.update.adam import Adam, AdamState
from clsweep.training.update.base import ParameterUpdate


class Optimizer(Protocol):
    """What moves the parameters by their gradients.

    Attributes:
        name: as results show it.
        changes_gradients: whether a step may leave other gradients than it got.
    """

    name: str
    changes_gradients: bool

    def start_context(self, iterations: int | None) -> None:
        """See `ParameterUpdate.start_context`."""

    def state(self) -> dict[str, Any]:
        """See `ParameterUpdate.state`."""

    def load_state(self, state: Mapping[str, Any]) -> None:
        """See `ParameterUpdate.load_state`."""

    def arrange(self, numbers: list[int]) -> None:
        """Prepare for steps in which the parameters with these numbers have a gradient."""

    def step(self) -> None:
        """Move them."""


class ForeachUpdate(ParameterUpdate):
    """For every device, type and optimizer.

    Args:
        parameters: what is trained, on one device.
        optimizer: moves them.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], optimizer: Optimizer) -> None:
        super().__init__(parameters)
        self._optimizer = optimizer
        self.name = optimizer.name

    def start_context(self, iterations: int | None) -> None:
        self._optimizer.start_context(iterations)

    def state(self) -> dict[str, Any]:
        return self._optimizer.state()

    def load_state(self, state: Mapping[str, Any]) -> None:
        self._optimizer.load_state(state)

    def _arrange(self, numbers: list[int]) -> None:
        moving = [self._parameters[number] for number in numbers]
        self._moves = bool(moving)
        self._pulled = [p for p in moving if p in self._springs]
        self._pulled_values = [p.detach() for p in self._pulled]
        self._stiffness = [self._springs[p].doubled_stiffness for p in self._pulled]
        self._centres = [self._springs[p].centre for p in self._pulled]
        self._tracked = [p for p in moving if p in self._path_integrals]
        self._tracked_values = [p.detach() for p in self._tracked]
        self._totals = [self._path_integrals[p].total for p in self._tracked]
        self._positions = [self._path_integrals[p].position for p in self._tracked]
        self._kept = [(k, p) for k, p in zip(self._positions, self._tracked_values, strict=True) if k is not None]
        self._optimizer.arrange(numbers)

    def _update(self) -> None:
        if not self._moves:
            return
        if self._pulled:
            distances = torch._foreach_sub(self._pulled_values, self._centres)
            torch._foreach_addcmul_(gradients_of(self._pulled), distances, self._stiffness)
        before = [
            p.clone() if kept is None else kept for kept, p in zip(self._positions, self._tracked_values, strict=True)
        ]
        gradients = gradients_of(self._tracked)
        if self._optimizer.changes_gradients:
            gradients = [gradient.clone() for gradient in gradients]
        self._optimizer.step()
        if self._tracked:
            changes = torch._foreach_sub(self._tracked_values, before)
            torch._foreach_addcmul_(self._totals, gradients, changes, value=-1.0)
        if self._kept:
            torch._foreach_copy_([kept for kept, _ in self._kept], [p for _, p in self._kept])


class FusedAdam:
    """Adam in one operation; the arithmetic is that of `torch.optim.Adam(fused=True)`.

    Args:
        parameters: what is trained, on one device.
        adam: its values.
    """

    name = "foreach"
    changes_gradients = False

    def __init__(self, parameters: Sequence[nn.Parameter], adam: Adam) -> None:
        self._parameters = list(parameters)
        self._adam = adam
        self._state = AdamState(parameters, torch.zeros(len(self._parameters), device=self._parameters[0].device))

    def start_context(self, iterations: int | None) -> None:
        if self._adam.reset:
            self._state.reset()

    def state(self) -> dict[str, Any]:
        return self._state.state()

    def load_state(self, state: Mapping[str, Any]) -> None:
        self._state.load_state(state)

    def arrange(self, numbers: list[int]) -> None:
        """Prepare for these parameters; see `Optimizer`."""
        state = self._state
        self._moved = [self._parameters[number] for number in numbers]
        self._values = [p.detach() for p in self._moved]
        self._counted = torch.zeros_like(state.steps)
        self._counted[numbers] = 1
        self._lists = (
            [state.averages[number] for number in numbers],
            [state.square_averages[number] for number in numbers],
            [state.steps[number] for number in numbers],
        )

    def step(self) -> None:
        self._state.steps += self._counted
        averages, square_averages, steps = self._lists
        beta1, beta2 = self._adam.betas
        torch._fused_adam_(
            self._values,
            gradients_of(self._moved),
            averages,
            square_averages,
            [],
            steps,
            lr=self._adam.lr,
            beta1=beta1,
            beta2=beta2,
            weight_decay=0.0,
            eps=self._adam.eps,
            amsgrad=False,
            maximize=False,
        )


def gradients_of(parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """The gradients of parameters that have them."""
    return [p.grad for p in parameters if p.grad is not None]
