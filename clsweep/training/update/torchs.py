"""Any optimizer of PyTorch's kind, and its schedule."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from clsweep.errors import InputError, RunError, is_machine_error, named
from clsweep.methods.undisturbed import settings_put_back
from clsweep.optimizers import LENGTHS, OptimizerSetting
from clsweep.seeding import GlobalStream
from clsweep.targets import Target

# Those whose fused form reads each tensor once, on CPUs and GPUs; it is used unless the setting chooses a form.
_FUSED = ("torch.optim.Adam", "torch.optim.AdamW", "torch.optim.SGD")
_MOMENTUM = "torch.optim.SGD"  # whose fused form can't begin a parameter's momentum beside others that go on
_IMPLEMENTATIONS = ("fused", "foreach", "differentiable", "capturable")
_SCHEDULED = ("lr", "momentum", "betas")  # what a schedule may change
_OF_PROCESS = ("step", "_zero_grad_profile_name")  # a schedule wraps the former
_Kind = TypeVar("_Kind")


class TorchOptimizer:
    """A `torch.optim.Optimizer`, with a schedule that begins anew in each context.

    Args:
        parameters: what is trained, on one device.
        setting: which optimizer, and how it is used.

    Raises:
        InputError: it can't be made.
    """

    name = "torch"

    def __init__(self, parameters: Sequence[nn.Parameter], setting: OptimizerSetting) -> None:
        self._parameters = list(parameters)
        self._setting = setting
        target = setting.target
        self._is_fused = target.path in _FUSED and not any(name in target.arguments for name in _IMPLEMENTATIONS)
        self._has_fused_momentum = target.path == _MOMENTUM and bool(target.arguments.get("fused", self._is_fused))
        self.changes_gradients = not self._is_fused  # some add to them, or clip them, in place
        self._optimizer = self._made()
        self._schedule: LRScheduler | None = None
        groups = self._optimizer.param_groups
        self._unscheduled = [{name: group[name] for name in _SCHEDULED if name in group} for group in groups]

    def start_context(self, iterations: int | None) -> None:
        """Begin a context; see `clsweep.training.update.foreach.Optimizer`.

        Raises:
            InputError: the schedule can't be made.
        """
        if self._setting.reset:
            self._optimizer = self._made()
        if self._setting.schedule is not None:
            for group, values in zip(self._optimizer.param_groups, self._unscheduled, strict=True):
                group.pop("initial_lr", None)  # else it would be what the last schedule began with
                group.update(values)
            self._schedule = _schedule(self._setting.schedule, self._optimizer, iterations)

    def state(self) -> dict[str, Any]:
        """All that the optimizer keeps: groups, state, and what a class of one's own has besides; see `Optimizer`."""
        found = vars(self._optimizer).items()
        return {name: value for name, value in found if name not in _OF_PROCESS and not name.endswith("_hooks")}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take it over, whole: what two of its parts share, they go on sharing; see `Optimizer`."""
        vars(self._optimizer).update(state)

    def arrange(self, numbers: list[int]) -> None:
        """Nothing: PyTorch's optimizers look for gradients themselves."""

    def step(self) -> None:
        """Move the parameters, then go on in the schedule.

        Raises:
            RunError: one of them raised.
        """
        if self._has_fused_momentum:
            self._choose_form()
        with _told(self._setting.target):
            self._optimizer.step()
        if self._schedule is not None and self._setting.schedule is not None:
            with _told(self._setting.schedule):
                self._schedule.step()

    @property
    def rates(self) -> list[float]:
        """The learning rate of the next step, of each group of parameters."""
        return [float(group["lr"]) for group in self._optimizer.param_groups]

    def go_through(self, iterations: int) -> None:
        """Make one step with made-up gradients, and go to the end of the schedule; the parameters are left changed.

        Raises:
            InputError: one of them can't be made, raised, or gave an impossible learning rate.
            RunError: likewise.
        """
        self.start_context(iterations)
        for p in self._parameters:
            p.grad = torch.full_like(p, 1e-3)
        self.step()
        target = self._setting.schedule
        if self._schedule is None or target is None:
            return
        for number in range(2, iterations + 1):
            wrong = [rate for rate in self.rates if not 0 <= rate < math.inf]
            if wrong:
                raise InputError(
                    f"{target.key}._target_={target.path}: the learning rate is {wrong[0]:g} at iteration {number} of "
                    f"{iterations}; expected a schedule that keeps it at 0 or more."
                )
            with _told(target):
                self._schedule.step()

    def _choose_form(self) -> None:
        """Make a step in PyTorch's plain form where it is the first of some parameters, and not of others."""
        state = self._optimizer.state
        all_go_on = len(state) == len(self._parameters)  # as a rule, from the second step on
        for group in self._optimizer.param_groups:
            is_simple = all_go_on or not group["momentum"]
            group["fused"] = is_simple or len({p in state for p in group["params"] if p.grad is not None}) < 2

    def _made(self) -> Optimizer:
        target = self._setting.target
        return _of_kind(Optimizer, target, target.make(self._parameters, **({"fused": True} if self._is_fused else {})))


def check(parameters: Sequence[nn.Parameter], setting: OptimizerSetting, iterations: int) -> None:
    """Try an optimizer and its schedule, before anything is trained with it.

    Args:
        parameters: such as those that will be trained; left changed.
        setting: which optimizer.
        iterations: the steps of the longest context.

    Raises:
        InputError: one of them can't be made, raised, or gave an impossible learning rate.
    """
    with settings_put_back(), GlobalStream(0).active():
        try:
            TorchOptimizer(parameters, setting).go_through(iterations)
        except RunError as error:
            raise InputError(str(error)) from error


def _schedule(target: Target, optimizer: Optimizer, iterations: int | None) -> LRScheduler:
    """A new schedule; where it asks for its length, and the configuration doesn't say, it gets the iterations."""
    says_how_long = "epochs" in target.arguments  # OneCycleLR's other way
    provided = {} if says_how_long else dict.fromkeys(LENGTHS, iterations)
    return _of_kind(LRScheduler, target, target.make(optimizer, **provided))


def _of_kind(kind: type[_Kind], target: Target, made: object) -> _Kind:
    if not isinstance(made, kind):
        module = "torch.optim" if kind is Optimizer else "torch.optim.lr_scheduler"
        raise InputError(
            f"{target.key}._target_={target.path}: makes a {type(made).__name__}; expected a {module}.{kind.__name__}."
        )
    return made


@contextmanager
def _told(target: Target) -> Iterator[None]:
    """One sentence for what a step raises."""
    try:
        yield
    except Exception as error:
        if is_machine_error(error):
            raise
        where = "CLSWEEP_TRACEBACK=1 shows the traceback"
        raise RunError(f"{target.key}._target_={target.path}: a step raised {named(error)}; {where}.") from error
