from __future__ import annotations

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution

from clsweep.errors import InputError
from clsweep.sweep.space import contains, grid, parse


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("interval(0.5, 2)", FloatDistribution(0.5, 2.0)),
        ("tag(log, interval(1, 1e6))", FloatDistribution(1.0, 1e6, log=True)),
        ("choice(1, 10, 100)", CategoricalDistribution([1.0, 10.0, 100.0])),
        ("1,10,10", CategoricalDistribution([1.0, 10.0])),
        ("range(1, 4)", CategoricalDistribution([1.0, 2.0, 3.0])),
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
        ("reg_strength", "choice(a, b)", "of numbers"),
        ("reg_strength", "interval(1", "expected interval"),
        ("reg_strength", "interval(1, inf)", "expected a finite number"),
    ],
)
def test_a_wrong_range_is_one_sentence(name: str, text: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        parse({name: text})
    assert message in str(error.value)
    assert str(error.value).startswith(f"regularizer.{name}=")


def test_contains_every_hyperparameter() -> None:
    space = parse({"reg_strength": "interval(1, 10)", "gamma": "choice(0.5, 1)"})
    assert contains(space, {"reg_strength": 1.0, "gamma": 0.5})
    assert not contains(space, {"reg_strength": 11.0, "gamma": 0.5})
    assert not contains(space, {"reg_strength": 2.0, "gamma": 0.7})
    assert not contains(space, {"reg_strength": 2.0})


def test_grid_of_a_finite_space() -> None:
    assert grid(parse({"reg_strength": "1,2", "gamma": "choice(0.5, 1)"})) == [
        {"reg_strength": 1.0, "gamma": 0.5},
        {"reg_strength": 1.0, "gamma": 1.0},
        {"reg_strength": 2.0, "gamma": 0.5},
        {"reg_strength": 2.0, "gamma": 1.0},
    ]
    assert grid(parse({"reg_strength": "1,2", "gamma": "interval(0.5, 1)"})) is None
    assert grid({}) == [{}]
