"""Any optimizer of PyTorch's kind, and its schedule."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, TypeVar

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from clsweep.errors import InputError, RunError, is_machines, named
from clsweep.optimizers import LENGTHS, OptimizerSetting
from clsweep.targets import Target

log = logging.getLogger(__name__)

_FUSED = ("torch.optim.Adam", "torch.optim.AdamW", "torch.optim.SGD")
_IMPLEMENTATIONS = ("fused", "foreach", "differentiable", "capturable")
_SCHEDULED = ("lr", "momentum", "betas")  # what a schedule may change


class TorchOptimizer:
    """A `torch.optim.Optimizer`, with a schedule that begins anew in each context.

    Args:
        parameters: what is trained, on one device.
        setting: which optimizer, and how it is used.

    Raises:
        InputError: it can't be made.
    """

    name = "torch"
    changes_gradients = True  # some add their weight decay, or clip, in place

    def __init__(self, parameters: Sequence[nn.Parameter], setting: OptimizerSetting) -> None:
        self._parameters = list(parameters)
        self._setting = setting
        self._optimizer = self._made()
        self._schedule: LRScheduler | None = None
        self._unscheduled = self._scheduled_values()

    def start_context(self, iterations: int | None) -> None:
        """Begin a context; see `clsweep.training.update.foreach.Optimizer`.

        Raises:
            InputError: the schedule can't be made.
        """
        if self._setting.reset:
            self._optimizer = self._made()
        if self._setting.schedule is not None:
            for group, values in zip(self._optimizer.param_groups, self._unscheduled, strict=True):
                group.pop("initial_lr", None)  # else it would be the old schedule's
                group.update(values)
            self._schedule = _schedule(self._setting.schedule, self._optimizer, iterations)

    def arrange(self, numbers: list[int]) -> None:
        """Nothing: PyTorch's optimizers look for gradients themselves."""

    def step(self) -> None:
        """Move the parameters, then the schedule.

        Raises:
            RunError: one of them raised.
        """
        at_fault = self._setting.target
        try:
            self._optimizer.step()
            if self._schedule is not None:
                at_fault = self._setting.schedule or at_fault
                self._schedule.step()
        except Exception as error:
            if is_machines(error):
                raise
            log.exception("%s", at_fault.path)
            raise RunError(
                f"{at_fault.key}._target_={at_fault.path}: a step raised {named(error)}; the traceback is in the run's "
                "log."
            ) from error

    @property
    def rates(self) -> list[float]:
        """The learning rate that the next step has, of each group of parameters."""
        return [float(group["lr"]) for group in self._optimizer.param_groups]

    def _made(self) -> Optimizer:
        target = self._setting.target
        provided = {}
        if target.path in _FUSED and not any(name in target.arguments for name in _IMPLEMENTATIONS):
            provided["fused"] = True
        made = target.make(self._parameters, **provided)
        return _of_kind(Optimizer, target, made)

    def _scheduled_values(self) -> list[dict[str, Any]]:
        groups = self._optimizer.param_groups
        return [{name: group[name] for name in _SCHEDULED if name in group} for group in groups]


def _schedule(target: Target, optimizer: Optimizer, iterations: int | None) -> LRScheduler:
    """A new schedule; how long it is, where it asks for that and the configuration doesn't say, the iterations."""
    says_how_long = "epochs" in target.arguments  # OneCycleLR's other way
    provided = {} if says_how_long else dict.fromkeys(LENGTHS, iterations)
    return _of_kind(LRScheduler, target, target.make(optimizer, **provided))


_Kind = TypeVar("_Kind")


def _of_kind(kind: type[_Kind], target: Target, made: object) -> _Kind:
    if not isinstance(made, kind):
        raise InputError(
            f"{target.key}._target_={target.path}: makes a {type(made).__name__}; expected a torch.optim "
            f"{kind.__name__}."
        )
    return made
