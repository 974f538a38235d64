from __future__ import annotations

from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from clsweep import space as spaces
from clsweep.errors import InputError
from clsweep.hyperparameters import STANDARD
from clsweep.space import contains, drawn, ends, first, grid, parse, searched_value
from clsweep.sweeps.overrides import _alternatives


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("interval(0.5, 2)", FloatDistribution(0.5, 2.0)),
        ("tag(log, interval(1, 1e6))", FloatDistribution(1.0, 1e6, log=True)),
        ("choice(1, 10, 100)", CategoricalDistribution([1.0, 10.0, 100.0])),
        ("1,10,10", CategoricalDistribution([1.0, 10.0])),
        ("range(1, 4)", CategoricalDistribution([1.0, 2.0, 3.0])),
        ("range(0.1, 1.1, 0.1)", CategoricalDistribution([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])),
        ("range(0, 1e-2, 3e-3)", CategoricalDistribution([0.0, 0.003, 0.006, 0.009])),
        ("range(10, 1, -3)", CategoricalDistribution([10.0, 7.0, 4.0])),
        ("int(interval(1, 10))", IntDistribution(1, 10)),
        ("tag(log, int(interval(1, 100)))", IntDistribution(1, 100, log=True)),
        ("int(tag(log, interval(1, 100)))", IntDistribution(1, 100, log=True)),
        ("float(interval(1, 10))", FloatDistribution(1.0, 10.0)),
        ("int(choice(1.5, 2))", CategoricalDistribution([1.0, 2.0])),
        ("str(choice(1, 2))", CategoricalDistribution([1.0, 2.0])),
        ("choice(a, b)", CategoricalDistribution(["a", "b"])),
        ("tag(search, choice(true, false))", CategoricalDistribution(["true", "false"])),
        ("7", None),
    ],
)
def test_hydras_syntax_is_read(text: str, expected: object) -> None:
    if expected is None:
        with pytest.raises(InputError, match="expected interval"):
            parse({"reg_strength": text})
    else:
        assert parse({"reg_strength": text}) == {"reg_strength": expected}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("gamma", "interval(0, 1)", "regularizer.gamma=0.0: expected a number above 0 and at most 1"),
        ("gamma", "choice(0.5, 2)", "regularizer.gamma=2.0: expected a number above 0"),
        ("epsilon", "interval(-1, 1)", "regularizer.epsilon=-1.0: expected a finite number above 0"),
        ("reg_strength", "tag(log, interval(0, 1))", "two numbers above 0, the smaller one first"),
        ("reg_strength", "interval(2, 1)", "the smaller one first"),
        ("reg_strength", "tag(lgo, interval(1, 2))", "unknown tag lgo"),
        ("reg_strength", "choice(a, b)", "regularizer.reg_strength=a: expected a finite number of 0 or more"),
        ("reg_strength", "interval(1", "expected interval"),
        ("reg_strength", "interval(1, inf)", "expected a finite number"),
        ("reg_strength", "int(interval(1, inf))", "cannot convert float infinity to integer; expected interval"),
        ("gamma", "int(interval(0, 1))", "regularizer.gamma=0: expected a number above 0"),
        ("reg_strength", "tag(log, int(interval(0, 9)))", "two numbers above 0, the smaller one first"),
        ("reg_strength", "tag(lgo, int(interval(1, 9)))", "unknown tag lgo"),
        ("reg_strength", "tag(log, choice(1, 2))", "tag(...) has no meaning for single values; expected them without"),
        ("reg_strength", "shuffle(1, 2)", "shuffle(...) has no meaning for single values; expected them without it"),
        ("reg_strength", "json_str(choice(1, 2))", "Unknown function 'json_str'; expected interval(low, high)"),
        ("reg_strength", "str(interval(1, 2))", "Intervals cannot be cast to str; expected interval(low, high)"),
        ("reg_strength", "bool(choice(1, 0))", "regularizer.reg_strength=true: expected a finite number of 0"),
        ("reg_strength", "range(1, inf)", "expected range(start, stop, step) of finite numbers"),
        ("reg_strength", "range(1, 2, 0)", "and a step other than 0"),
        ("reg_strength", "range(0, 1e9)", "has 1,000,000,000 values; expected at most 1,000"),
        ("reg_strength", "range(2, 1)", "holds no value"),
    ],
)
def test_a_wrong_range_is_one_sentence(name: str, text: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        _checked(name, text)
    assert message in str(error.value)
    assert str(error.value).startswith(f"regularizer.{name}=")


def _checked(name: str, text: str) -> None:
    """A range as a study takes it."""
    for end in ends(parse({name: text})[name]):
        STANDARD[name].checked(name, spaces.value(end))


def test_contains_every_hyperparameter() -> None:
    space = parse({"reg_strength": "interval(1, 10)", "gamma": "choice(0.5, 1)"})
    assert contains(space, {"reg_strength": 1.0, "gamma": 0.5})
    assert not contains(space, {"reg_strength": 11.0, "gamma": 0.5})
    assert not contains(space, {"reg_strength": 2.0, "gamma": 0.7})
    assert not contains(space, {"reg_strength": 2.0})
    integers = parse({"reg_strength": "int(interval(1, 10))"})
    assert [contains(integers, {"reg_strength": value}) for value in (1, 10.0, 6.03, 11)] == [True, True, False, False]


def points(reg_strength: str, **others: str) -> list[spaces.Point]:
    found = grid(parse({"reg_strength": reg_strength, **others}))
    assert found is not None
    assert [found[place] for place in range(-len(found), len(found))] == [*found, *found]
    return list(found)


def test_grid_of_a_finite_space() -> None:
    assert points("1,2", gamma="choice(0.5, 1)") == [
        {"reg_strength": 1.0, "gamma": 0.5},
        {"reg_strength": 1.0, "gamma": 1.0},
        {"reg_strength": 2.0, "gamma": 0.5},
        {"reg_strength": 2.0, "gamma": 1.0},
    ]
    assert grid(parse({"reg_strength": "1,2", "gamma": "interval(0.5, 1)"})) is None
    assert list(grid({}) or ()) == [{}]
    assert points("int(interval(2, 4))") == [{"reg_strength": value} for value in (2, 3, 4)]
    assert grid(parse({"reg_strength": "int(interval(1, 5000))"})) is None  # nobody goes through all of them


def test_a_very_large_grid_takes_no_time() -> None:
    found = grid(parse(dict.fromkeys("abcde", "range(0, 1000)")))
    assert found is not None
    assert len(found) == 10**15
    last = dict.fromkeys("abcde", 999.0)
    assert found[-1] == last
    assert last in found
    for other in (last | {"e": 999.5}, last | {"f": 1.0}, {"a": 1.0}, "abcde"):
        assert other not in found
    assert found[1000:1002] == [dict.fromkeys("abc", 0.0) | {"d": 1.0, "e": e} for e in (0.0, 1.0)]


def test_a_random_point_of_a_discrete_space_lies_in_it() -> None:
    space = parse({"reg_strength": "tag(log, int(interval(1, 5000)))", "gamma": "choice(0.5, 1)"})
    points = [drawn(space) for _ in range(50)]
    assert all(point is not None and contains(space, point) for point in points)
    assert drawn(parse({"reg_strength": "interval(1, 2)"})) is None


def test_a_range_of_any_other_key_has_the_values_that_are_written() -> None:
    parsed = OverridesParser.create().parse_overrides(["benchmark.lr=range(0.1,0.5,0.1)", "benchmark.iters=range(1,4)"])
    assert [_alternatives(one) for one in parsed] == [
        ["benchmark.lr=0.1", "benchmark.lr=0.2", "benchmark.lr=0.3", "benchmark.lr=0.4"],
        ["benchmark.iters=1", "benchmark.iters=2", "benchmark.iters=3"],
    ]


@pytest.mark.parametrize(
    ("text", "expected", "values"),
    [
        ("tag(log, interval(1e-5, 1e-2))", FloatDistribution(1e-5, 1e-2, log=True), [1e-5, 1e-2]),
        ("int(interval(16, 64))", IntDistribution(16, 64), [16, 64]),
        ("tag(search, choice(64, 128))", CategoricalDistribution([64, 128]), [64, 128]),
        ("tag(search, choice([400,400],[9]))", CategoricalDistribution(["[400,400]", "[9]"]), [[400, 400], [9]]),
        ("tag(search, choice('null',a,2))", CategoricalDistribution(["'null'", "a", "2"]), ["null", "a", 2]),
        ("choice(true,{a: 1})", CategoricalDistribution(["true", "{a:1}"]), [True, {"a": 1}]),
    ],
)
def test_a_key_that_is_no_hyperparameter_has_numbers_or_what_is_typed(
    text: str, expected: BaseDistribution, values: list[Any]
) -> None:
    found = parse({"network.x": text})["network.x"]
    assert found == expected
    assert [spaces.value(one) for one in ends(found)] == values
    assert [type(spaces.value(one)) for one in ends(found)] == [type(one) for one in values]
    if isinstance(found, CategoricalDistribution):
        assert [searched_value(found, one) for one in values] == list(found.choices)


def test_what_a_key_without_a_value_begins_with() -> None:
    ranges = ("interval(1, 3)", "tag(log, interval(1, 100))", "int(interval(1, 4))", "choice([5],[6])")
    assert [first(parse({"network.x": text})["network.x"]) for text in ranges] == [2.0, 10.0, 2, "[5]"]
