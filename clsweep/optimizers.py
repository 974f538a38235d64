"""What a setting says about its optimizer (`conf/optimizer`): how it is checked, and how results describe it.

`clsweep.training.update` makes the optimizer. Nothing here imports torch, except for the signature of a class that has
no file in `conf/optimizer`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from clsweep.errors import InputError
from clsweep.targets import Target, files

KEY, SCHEDULE = "optimizer", "optimizer.schedule"
ALIAS = "benchmark.lr"
# What a schedule's length may be called; a context's iterations, where it isn't given.
LENGTHS = ("T_max", "total_steps", "total_iters")
_APART = ("name", "reset", "schedule")  # clsweep's own keys


@dataclass(frozen=True)
class OptimizerSetting:
    """An optimizer, and how it is used.

    Attributes:
        target: its class, with the learning rate among the arguments.
        reset: whether each context begins with a new state.
        schedule: what changes the learning rate within a context; None: nothing.
    """

    target: Target
    reset: bool = False
    schedule: Target | None = None

    @classmethod
    def of(cls, node: Mapping[str, Any], lr: float) -> OptimizerSetting:
        """What a checked node says.

        Args:
            node: `Config.optimizer`.
            lr: the learning rate, which stands there under its other name.
        """
        target = Target.of(KEY, {**node, "lr": lr}, _APART)
        schedule = node.get("schedule")
        return cls(target, bool(node.get("reset")), None if schedule is None else Target.of(SCHEDULE, schedule))

    @property
    def is_plain(self) -> bool:
        """Whether steps are straight against gradients of their own context: SGD that keeps nothing of earlier ones."""
        given = self.target.arguments
        keeps_momentum = bool(given.get("momentum")) and not self.reset
        return self.target.path == "torch.optim.SGD" and not keeps_momentum and not given.get("weight_decay")

    @property
    def described(self) -> str:
        """The optimizer without its learning rate, as results describe it: `adam`, `sgd momentum=0.9`.

        One of `conf/optimizer` has its name there, and the arguments that differ from that file's, which are PyTorch's
        own defaults.
        """
        given = {name: value for name, value in self.target.arguments.items() if name != "lr"}
        for name, written in files(KEY).items():
            if written["_target_"] == self.target.path:
                other = {key: value for key, value in given.items() if key not in written or written[key] != value}
                return Target(KEY, name, other).described
        return Target(KEY, self.target.path, given).described

    @property
    def schedule_described(self) -> str:
        """The schedule, as results describe it; empty where there is none."""
        return "" if self.schedule is None else self.schedule.described


def one_rate(node: Mapping[str, Any], lr: float) -> tuple[dict[str, Any], float]:
    """`optimizer.lr` and `benchmark.lr` as the one number that they are.

    Args:
        node: the optimizer's values, any interpolation resolved.
        lr: `benchmark.lr`.

    Returns:
        The values with the rate under its other name, and the rate: `optimizer.lr`, which is the benchmark's where
        nobody says otherwise.

    Raises:
        InputError: it is no number above 0.
    """
    rate = node.get("lr", lr)
    if not _is_number(rate) or not 0 < rate < math.inf:
        named = ALIAS if rate == lr or math.isnan(lr) else f"{KEY}.lr"
        raise InputError(f"{named}={rate}: expected a finite number above 0.")
    return {**node, "lr": f"${{{ALIAS}}}"}, float(rate)


def check(node: Mapping[str, Any], lr: float) -> None:
    """Check an optimizer's values.

    Raises:
        InputError: naming the first that is unknown or out of its range.
    """
    reset, schedule = node.get("reset", False), node.get("schedule")
    _require(isinstance(reset, bool), f"{KEY}.reset", reset, "true or false")
    has_target = schedule is None or isinstance(schedule, Mapping)
    _require(has_target, SCHEDULE, schedule, f"null, or a class of torch.optim.lr_scheduler as {SCHEDULE}._target_")
    setting = OptimizerSetting.of(node, lr)
    target = setting.target
    if any(written["_target_"] == target.path for written in files(KEY).values()):
        for name, (holds, expected) in _RANGES.items():
            if name in target.arguments:
                _require(holds(target.arguments[name]), f"{KEY}.{name}", target.arguments[name], expected)
    _check_callable(target)
    if setting.schedule is not None:
        _check_callable(setting.schedule, *LENGTHS)


def _check_callable(target: Target, *provided: str) -> None:
    """Check the arguments, and that a step needs none."""
    target.check(*provided, leading=1)
    if target.is_written:
        return
    step = getattr(target.callable(), "step", None)
    needed = [] if step is None else [one for one in _needed(step) if one != "self"]
    if needed:
        raise InputError(
            f"{target.key}._target_={target.path}: its step needs {needed[0]}, which it doesn't get here; expected one "
            "whose step needs nothing."
        )


def _needed(step: Callable[..., Any]) -> list[str]:
    """The names of the arguments that have no default."""
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    every = inspect.signature(step).parameters.items()
    return [name for name, one in every if one.default is inspect.Parameter.empty and one.kind in by_name]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _in(least: float, below: float) -> Callable[[Any], bool]:
    return lambda value: _is_number(value) and least <= value < below


def _are_betas(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_in(0, 1), value))


# The arguments of the optimizers in `conf/optimizer`.
_RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "momentum": (_in(0, 1), "a number from 0 up to, not including, 1"),
    "nesterov": (lambda value: isinstance(value, bool), "true or false"),
    "betas": (_are_betas, "two numbers from 0 up to, not including, 1, as in optimizer.betas=[0.9,0.999]"),
    "eps": (_in(0, math.inf), "a finite number of 0 or more"),
    "weight_decay": (_in(0, math.inf), "a finite number of 0 or more"),
}


def _require(holds: bool, key: str, value: object, expected: str) -> None:
    if not holds:
        raise InputError(f"{key}={value}: expected {expected}.")
