"""What happens to the parameters after back-propagation: a quadratic penalty's gradient, Adam, the path integral.

Each of the three reads every parameter, and together they read and write up to ten tensors as large as the network,
so the time goes into memory, not into arithmetic. On a CPU with a C compiler one loop does everything to a parameter
while it is in a register (`native`); elsewhere PyTorch's own operations follow each other (`foreach`), which on a GPU
are as few kernels.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from clsweep.training.update.base import ParameterUpdate, PathIntegral, Spring
from clsweep.training.update.foreach import ForeachUpdate
from clsweep.training.update.native import NativeUpdate, library

__all__ = ["ForeachUpdate", "NativeUpdate", "ParameterUpdate", "PathIntegral", "Spring", "library", "parameter_update"]


def parameter_update(parameters: Sequence[nn.Parameter], lr: float) -> ParameterUpdate:
    """The fastest update for these parameters on this machine.

    Args:
        parameters: what is trained, on one device.
        lr: Adam's learning rate.
    """
    if NativeUpdate.takes(parameters) and library().loop is not None:
        return NativeUpdate(parameters, lr)
    return ForeachUpdate(parameters, lr)
