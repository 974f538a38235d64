"""What a sweep searches, by name, each a range written in Hydra's syntax for sweeps.

A method's hyperparameters go by their names, anything else in the setting by its key (`optimizer.lr`). A value is a
number; anything else (a list, a word) is a text as it is typed, which `value` reads.

`interval(0.1, 1)`, `tag(log, interval(1, 1e6))`, `int(interval(1, 10))`, `choice(1, 10, 100)`, `1,10,100` and
`range(1, 5)` are understood.
"""

from __future__ import annotations

import itertools
import math
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from typing import Any, overload

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Quote, QuotedString, RangeSweep
from hydra.errors import HydraException
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from clsweep.config import key_of
from clsweep.errors import InputError
from clsweep.hyperparameters import Declared

Space = dict[str, BaseDistribution]
Value = float | str
Point = Mapping[str, Value]
SEARCH = "search"  # a tag: in tag(search, choice(...)), values of a key that would make several studies without it

_SYNTAX = (
    "interval(low, high), int(interval(low, high)), tag(log, interval(low, high)), choice(a, b, ...) or "
    "range(start, stop, step)"
)
_MOST_VALUES = 1_000


def parse(ranges: Mapping[str, str]) -> Space:
    """The distributions that a sampler draws from.

    Args:
        ranges: by name, in Hydra's syntax.

    Returns:
        A float distribution for an interval, one of integers for `int(interval(...))`; a categorical one for a choice
        or a range.

    Raises:
        InputError: a range cannot be read, or is empty.
    """
    return {name: _distribution(name, text) for name, text in ranges.items()}


def texts(name: str, text: str) -> list[str]:
    """The values of a range; empty if any isn't a text, or if the range can't be read, which `check` reports."""
    try:
        distribution = _distribution(name, text)
    except InputError:
        return []
    values = [value(end) for end in ends(distribution)]
    return values if all(isinstance(one, str) for one in values) else []


def check(ranges: Mapping[str, str], declared: Declared) -> None:
    """Check that the ranges of hyperparameters can be searched.

    Args:
        ranges: by name, in Hydra's syntax.
        declared: the method's hyperparameters, these among them.

    Raises:
        InputError: a range cannot be read, is empty, or reaches beyond what the hyperparameter may be.
    """
    for name, distribution in parse(ranges).items():
        for end in ends(distribution):
            declared[name].checked(name, value(end))


@cache  # a report reads the same few ranges again and again, and Hydra's parser takes its time
def _distribution(name: str, text: str) -> BaseDistribution:
    given = f"{key_of(name)}={text}"
    try:
        value = OverridesParser.create().parse_override(given).value()
    except HydraException as error:
        raise InputError(f"{given}: {_said(error)}expected {_SYNTAX}.") from error
    if isinstance(value, IntervalSweep):
        return _interval(name, given, value)
    if isinstance(value, ChoiceSweep | RangeSweep):
        return _choice(name, given, value)
    raise InputError(f"{given}: expected {_SYNTAX}.")


def _said(error: HydraException) -> str:
    """What Hydra says of a function in a range, such as an unknown one; of a syntax error it says nothing readable."""
    found = re.search(r"while evaluating '.*': (?P<reason>.*)", str(error))
    return f"{found['reason']}; " if found else ""


def _interval(name: str, given: str, interval: IntervalSweep) -> FloatDistribution | IntDistribution:
    low, high = (end if end is not None else math.nan for end in (interval.start, interval.end))
    log = "log" in interval.tags
    unknown = set(interval.tags) - {"log"}
    if unknown:
        raise InputError(f"{given}: unknown tag {', '.join(sorted(unknown))}; expected {_SYNTAX}.")
    if not low < high or (log and low <= 0):
        above = " above 0" if log else ""
        raise InputError(f"{given}: expected two numbers{above}, the smaller one first.")
    if isinstance(low, int) and isinstance(high, int):  # Hydra makes them floats unless int(...) was asked for
        return IntDistribution(low, high, log=log)
    return FloatDistribution(low, high, log=log)


def _choice(name: str, given: str, sweep: ChoiceSweep | RangeSweep) -> CategoricalDistribution:
    if set(sweep.tags) - {SEARCH} or sweep.shuffle:
        what = "shuffle(...)" if sweep.shuffle else "tag(...)"
        raise InputError(f"{given}: {what} has no meaning for single values; expected them without it.")
    chosen: Sequence[Any] = range_values(given, sweep) if isinstance(sweep, RangeSweep) else sweep.list
    if not chosen:
        raise InputError(f"{given}: holds no value; expected {_SYNTAX}.")
    values = _values(chosen) if "." in name else _of_hyperparameter(chosen)
    return CategoricalDistribution(list(dict.fromkeys(values)))


def _of_hyperparameter(chosen: Sequence[Any]) -> list[Value]:
    """Floats, or texts and truth values as they are typed."""
    try:
        return [float(str(value)) for value in chosen]
    except ValueError:
        return _values(chosen)


def _values(chosen: Sequence[Any]) -> list[Value]:
    """Numbers, or texts as they are typed: a storage keeps nothing else."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in chosen):
        return list(chosen)
    return [_typed(value) for value in chosen]


def _typed(value: Any) -> str:
    """A value as it is typed; what is read again as something else is in quotes."""
    if isinstance(value, QuotedString):
        return _typed(value.text) if value.text else value.with_quotes()
    if isinstance(value, list):
        return f"[{','.join(map(_typed, value))}]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_typed(one)}" for key, one in value.items()) + "}"
    if isinstance(value, str):
        return value if _read(value) == value else QuotedString(value, Quote.single).with_quotes()
    return str(value).lower() if isinstance(value, bool) else "null" if value is None else str(value)


def value(of: Value) -> Any:
    """A searched value as the setting has it: a text is read as it was typed."""
    return _read(of) if isinstance(of, str) else of


@cache
def _read(text: str) -> Any:
    try:
        return OverridesParser.create().parse_override(f"key={text}").value()
    except HydraException:
        return None


def searched_value(distribution: BaseDistribution, given: Any) -> Value:
    """A setting's value as a point has it; see `value`."""
    is_number = isinstance(given, int | float) and not isinstance(given, bool)
    is_typed = isinstance(distribution, CategoricalDistribution) and isinstance(distribution.choices[0], str)
    return given if is_number and not is_typed else _typed(given)


def first(distribution: BaseDistribution) -> Value:
    """A value to begin with, for a key that has none: the first choice, or the middle of an interval."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[0]  # type: ignore[return-value]
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high = distribution.low, distribution.high
    middle = math.sqrt(low * high) if distribution.log else (low + high) / 2
    return round(middle) if isinstance(distribution, IntDistribution) else middle


def ends(distribution: BaseDistribution) -> Sequence[Value]:
    """The values that stand for all of them: every choice, or the ends of an interval."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices  # type: ignore[return-value]
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return distribution.low, distribution.high


def range_values(given: str, sweep: RangeSweep) -> list[int | float]:
    """The values of `range(start, stop, step)`: start + k step before stop, as they are written.

    Hydra itself adds in floats, where `range(0.1, 1.1, 0.1)` has 0.30000000000000004 in it, and 1.1.

    Args:
        given: the whole override, for the error.
        sweep: what Hydra reads in it.

    Returns:
        Integers where all three are.

    Raises:
        InputError: one of them is not finite, the step is 0, or there are more than a thousand values.
    """
    ends = (sweep.start or 0, sweep.stop or 0, sweep.step)
    if not all(map(math.isfinite, ends)) or not sweep.step:
        raise InputError(f"{given}: expected range(start, stop, step) of finite numbers, and a step other than 0.")
    start, stop, step = (Decimal(str(end)) for end in ends)
    count = max(0, math.ceil((stop - start) / step))
    if count > _MOST_VALUES:
        raise InputError(f"{given}: has {count:,} values; expected at most {_MOST_VALUES:,}.")
    integers = all(isinstance(end, int) for end in ends)
    return [int(value) if integers else float(value) for value in (start + k * step for k in range(count))]


def contains(space: Space, point: Point) -> bool:
    """Whether `point` has a value in every range of the space."""
    return all(name in point and _within(distribution, point[name]) for name, distribution in space.items())


def _within(distribution: BaseDistribution, value: Value) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    if isinstance(value, str):
        return False
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    whole = isinstance(distribution, FloatDistribution) or float(value).is_integer()
    return whole and distribution.low <= value <= distribution.high


@dataclass(frozen=True)
class Grid(Sequence[Point]):
    """All points of a finite space, in order. There may be very many: none is kept, and none looked for one by one.

    Attributes:
        names: what is searched.
        values: those of each.
    """

    names: Sequence[str]
    values: Sequence[Sequence[Value]]

    def __len__(self) -> int:
        return math.prod(map(len, self.values))

    def __iter__(self) -> Iterator[Point]:
        return (dict(zip(self.names, point, strict=True)) for point in itertools.product(*self.values))

    @overload
    def __getitem__(self, place: int) -> Point: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[Point]: ...

    def __getitem__(self, place: int | slice) -> Point | Sequence[Point]:
        places = range(len(self))[place]
        return self._at(places) if isinstance(places, int) else [self._at(one) for one in places]

    def __contains__(self, point: object) -> bool:
        if not isinstance(point, Mapping) or point.keys() != set(self.names):
            return False
        return all(point[name] in values for name, values in zip(self.names, self.values, strict=True))

    def _at(self, place: int) -> Point:
        found: list[Value] = []
        for values in reversed(self.values):  # the last one varies fastest
            place, number = divmod(place, len(values))
            found.append(values[number])
        return dict(zip(self.names, reversed(found), strict=True))


def grid(space: Space) -> Grid | None:
    """All points of a finite space; None for a space with an interval, or of very many integers.

    A space without hyperparameters has one point.
    """
    values: list[Sequence[Value]] = []
    for distribution in space.values():
        if isinstance(distribution, CategoricalDistribution):
            values.append(distribution.choices)  # type: ignore[arg-type]
        elif isinstance(distribution, IntDistribution):
            values.append(range(distribution.low, distribution.high + 1))
        else:
            return None
    if any(isinstance(one, range) for one in values) and math.prod(map(len, values)) > _MOST_VALUES:
        return None
    return Grid(list(space), values)


def drawn(space: Space) -> Point | None:
    """A random point of a space where a sampler may propose one twice; None for a space with an interval of floats."""
    point: dict[str, Value] = {}
    for name, distribution in space.items():
        if isinstance(distribution, CategoricalDistribution):
            point[name] = random.choice(distribution.choices)  # type: ignore[assignment]
        elif isinstance(distribution, IntDistribution):
            point[name] = _drawn(distribution)
        else:
            return None
    return point


def _drawn(distribution: IntDistribution) -> int:
    low, high = distribution.low, distribution.high
    if not distribution.log:
        return random.randint(low, high)
    return min(high, round(math.exp(random.uniform(math.log(low - 0.5), math.log(high + 0.5)))))
