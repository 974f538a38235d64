"""What happens to the parameters after back-propagation: a penalty's gradient, the optimizer, the path integral.

Each of the three reads every parameter, and together they read and write up to ten tensors as large as the network,
so the time goes into memory, not into arithmetic. For Adam on a CPU with a C compiler one loop does everything to a
parameter while it is in a register (`native`); elsewhere PyTorch's own operations follow each other (`foreach`), which
on a GPU are as few kernels, around a fused Adam or around any `torch.optim.Optimizer` (`torchs`).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from clsweep.optimizers import OptimizerSetting
from clsweep.training.update.adam import Adam
from clsweep.training.update.base import ParameterUpdate, PathIntegral, Spring
from clsweep.training.update.foreach import ForeachUpdate, FusedAdam
from clsweep.training.update.native import NativeUpdate, library
from clsweep.training.update.torchs import TorchOptimizer, check

__all__ = [
    "Adam",
    "ForeachUpdate",
    "FusedAdam",
    "NativeUpdate",
    "ParameterUpdate",
    "PathIntegral",
    "Spring",
    "TorchOptimizer",
    "check",
    "is_fused",
    "library",
    "parameter_update",
]


def is_fused(optimizer: OptimizerSetting) -> bool:
    """Whether the fused updates do it, which are known to work; for any other there is `check`."""
    return Adam.of(optimizer) is not None


def parameter_update(parameters: Sequence[nn.Parameter], optimizer: OptimizerSetting) -> ParameterUpdate:
    """The fastest update for these parameters and this optimizer on this machine.

    Args:
        parameters: what is trained, on one device.
        optimizer: what moves them.

    Raises:
        InputError: it can't be made.
    """
    adam = Adam.of(optimizer)
    if adam is None:
        return ForeachUpdate(parameters, TorchOptimizer(parameters, optimizer))
    if NativeUpdate.takes(parameters) and library().loop is not None:
        return NativeUpdate(parameters, adam)
    return ForeachUpdate(parameters, FusedAdam(parameters, adam))
