"""The interface of an update, and what it is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Spring:
    """The penalty sum_i c_i (theta_i - m_i)^2 on one parameter; both tensors contiguous.

    Attributes:
        doubled_stiffness: 2 c, shaped as the parameter; what the distance is multiplied with to give the gradient.
        centre: m, likewise.
    """

    doubled_stiffness: Tensor
    centre: Tensor


@dataclass(frozen=True)
class PathIntegral:
    """The path integral of -gradient * change of one parameter, which every step extends.

    The gradient is that of the total loss, as the optimizer gets it: what the optimizer adds by itself, such as a
    weight decay, is in the change alone.

    Attributes:
        total: the integral so far, shaped as the parameter; written in place.
        position: the parameter after the last step, likewise; None: it isn't kept, and a step's change is counted from
            where the parameter is.
    """

    total: Tensor
    position: Tensor | None


class ParameterUpdate:
    """An optimizer, with springs and path integrals on the way.

    The optimizer's state is kept from context to context, unless it is told otherwise, and a parameter without a
    gradient is left alone.

    Args:
        parameters: what is trained, on one device.

    Attributes:
        name: of the kind of update, as results show it.
    """

    name: str

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self._parameters = list(parameters)
        self._springs: Mapping[nn.Parameter, Spring] = {}
        self._path_integrals: Mapping[nn.Parameter, PathIntegral] = {}
        self._strides = [p.stride() for p in self._parameters]
        self._addresses: list[int | None] | None = None

    def start_context(self, iterations: int | None) -> None:
        """Begin a context.

        Args:
            iterations: how many steps it will have; None where no schedule asks for it.
        """
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """The optimizer's state, which goes from context to context; what it holds may be packed, and is the live one.

        Kinds of update that compute the same have the same state.
        """
        raise NotImplementedError

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave, in this process or another."""
        raise NotImplementedError

    def set_springs(self, springs: Mapping[nn.Parameter, Spring]) -> None:
        """Replace what pulls at the parameters: the penalty, for those that have one."""
        self._springs = springs
        self._addresses = None

    def set_path_integrals(self, path_integrals: Mapping[nn.Parameter, PathIntegral]) -> None:
        """Replace the path integrals, one for each parameter whose path is tracked."""
        self._path_integrals = path_integrals
        self._addresses = None

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter that has a gradient; the spring's is added to it."""
        for p in self._springs:
            if p.grad is None and p.requires_grad:
                p.grad = torch.zeros_like(p)
        # Fused operations go by memory, not by index; and a method may give a parameter other memory at any step.
        for p, stride in zip(self._parameters, self._strides, strict=True):
            if p.stride() != stride:
                p.data = torch.empty_strided(p.shape, stride, dtype=p.dtype, device=p.device).copy_(p.data)
            if p.grad is not None and p.grad.stride() != stride:
                p.grad = torch.empty_like(p).copy_(p.grad)
        # A method may freeze a parameter, or give it other memory (p.data = ...), at any step.
        addresses = [None if p.grad is None else p.data_ptr() for p in self._parameters]
        if addresses != self._addresses:
            self._addresses = addresses
            self._arrange([number for number, address in enumerate(addresses) if address is not None])
        self._update()

    def _arrange(self, numbers: list[int]) -> None:
        """Prepare for steps in which the parameters with these numbers have a gradient."""
        raise NotImplementedError

    def _update(self) -> None:
        raise NotImplementedError
