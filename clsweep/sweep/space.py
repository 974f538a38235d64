"""What a sweep searches: hyperparameters by name, each a range written in Hydra's syntax for sweeps.

`interval(0.1, 1)`, `tag(log, interval(1, 1e6))`, `choice(1, 10, 100)`, `1,10,100` and `range(1, 5)` are understood.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from functools import cache

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.errors import HydraException
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from clsweep.config import check_hyperparameters
from clsweep.errors import InputError

Space = dict[str, BaseDistribution]
Point = dict[str, float]

_SYNTAX = "interval(low, high), tag(log, interval(low, high)), choice(a, b, ...) or range(start, stop)"


def parse(ranges: Mapping[str, str]) -> Space:
    """The distributions that a sampler draws from.

    Args:
        ranges: by hyperparameter, in Hydra's syntax.

    Returns:
        A float distribution for an interval; a categorical one for a choice or a range.

    Raises:
        InputError: a range cannot be read, is empty, or reaches beyond what the hyperparameter may be.
    """
    return {name: _distribution(name, text) for name, text in ranges.items()}


@cache  # a report reads the same few ranges again and again, and Hydra's parser takes its time
def _distribution(name: str, text: str) -> BaseDistribution:
    key = f"regularizer.{name}"
    try:
        override = OverridesParser.create().parse_override(f"{key}={text}")
    except HydraException as error:
        raise InputError(f"{key}={text}: expected {_SYNTAX}.") from error
    value = override.value()
    if isinstance(value, IntervalSweep):
        return _interval(name, text, value)
    return _choice(name, text, override)


def _interval(name: str, text: str, interval: IntervalSweep) -> FloatDistribution:
    low, high = (float(end) if end is not None else math.nan for end in (interval.start, interval.end))
    log = "log" in interval.tags
    unknown = set(interval.tags) - {"log"}
    if unknown:
        raise InputError(
            f"regularizer.{name}={text}: unknown tag {', '.join(sorted(unknown))}; expected tag(log, ...)."
        )
    if not low < high or (log and low <= 0):
        above = " above 0" if log else ""
        raise InputError(f"regularizer.{name}={text}: expected two numbers{above}, the smaller one first.")
    for end in (low, high):
        check_hyperparameters({name: end})
    return FloatDistribution(low, high, log=log)


def _choice(name: str, text: str, override: Override) -> CategoricalDistribution:
    try:
        values = [float(str(value)) for value in override.sweep_iterator()]
    except (HydraException, ValueError) as error:
        raise InputError(f"regularizer.{name}={text}: expected {_SYNTAX}, of numbers.") from error
    if not values:
        raise InputError(f"regularizer.{name}={text}: holds no value; expected {_SYNTAX}.")
    for value in values:
        check_hyperparameters({name: value})
    return CategoricalDistribution(list(dict.fromkeys(values)))


def contains(space: Space, point: Mapping[str, float]) -> bool:
    """Whether `point` has a value in the range of every hyperparameter of the space."""
    return all(name in point and _within(distribution, point[name]) for name, distribution in space.items())


def _within(distribution: BaseDistribution, value: float) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    assert isinstance(distribution, FloatDistribution)
    return distribution.low <= value <= distribution.high


def grid(space: Space) -> list[Point] | None:
    """All points of a finite space, in order; None for a space with an interval.

    A space without hyperparameters has one point.
    """
    choices = []
    for distribution in space.values():
        if not isinstance(distribution, CategoricalDistribution):
            return None
        choices.append(distribution.choices)
    return [dict(zip(space, values, strict=True)) for values in itertools.product(*choices)]  # type: ignore[arg-type]
