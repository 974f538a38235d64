"""Adam (Kingma & Ba, ICLR 2015, algorithm 1) as the fused updates have it: its values and its state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from clsweep.optimizers import OptimizerSetting

_TARGET = "torch.optim.Adam"
_FUSED = {"lr", "betas", "eps", "weight_decay"}


@dataclass(frozen=True)
class Adam:
    """Adam's values.

    Attributes:
        lr: the learning rate.
        betas: how much of its running averages is kept, of the gradient's and of its square's.
        eps: what the step is divided by besides the root of the latter.
        reset: whether the averages begin anew in each context.
    """

    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    reset: bool = False

    @classmethod
    def of(cls, optimizer: OptimizerSetting) -> Adam | None:
        """What the fused updates can do: Adam without a weight decay or a schedule; None for any other."""
        given = optimizer.target.arguments
        is_fused = optimizer.target.path == _TARGET and given.keys() <= _FUSED and not given.get("weight_decay")
        if not is_fused or optimizer.schedule is not None:
            return None
        default = cls(given["lr"])
        beta1, beta2 = given.get("betas", default.betas)
        return cls(given["lr"], (beta1, beta2), given.get("eps", default.eps), optimizer.reset)


class AdamState:
    """The running averages, and how many steps each parameter has made.

    Args:
        parameters: what is trained, on one device.
        steps: zeros [parameters]. One tensor, so that counting is one operation; a parameter's count is a view.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], steps: Tensor) -> None:
        self.averages = [torch.zeros_like(p) for p in parameters]
        self.square_averages = [torch.zeros_like(p) for p in parameters]
        self.steps = steps

    def state(self) -> dict[str, Any]:
        return {"averages": self.averages, "square_averages": self.square_averages, "steps": self.steps}

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take it over, into the same memory."""
        for mine, given in zip(
            (*self.averages, *self.square_averages, self.steps),
            (*state["averages"], *state["square_averages"], state["steps"]),
            strict=True,
        ):
            mine.copy_(given)

    def reset(self) -> None:
        """Begin anew, in the same memory."""
        for tensor in (*self.averages, *self.square_averages, self.steps):
            tensor.zero_()
