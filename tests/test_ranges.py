from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from omegaconf import OmegaConf

from clsweep import ranges
from clsweep.errors import InputError
from clsweep.hyperparameters import one_of
from clsweep.ranges import at_least, or_null, within


@dataclass
class Inner:
    size: int | None = within(or_null(at_least(1), " for any"), None)
    free: int = -1


@dataclass
class Outer:
    count: int = within(at_least(2))
    colour: str = within(one_of("red", "blue"), "red")
    inner: Inner = field(default_factory=Inner)


def test_values_within_their_ranges_pass_and_fields_without_one_may_be_anything() -> None:
    ranges.check(Outer(2, "blue", Inner(None, -5)))
    ranges.check(Outer(3, inner=Inner(1)))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (Outer(1), "key.count=1: expected an integer of 2 or more."),
        (Outer(2, "green"), "key.colour=green: expected one of red, blue."),
        (Outer(2, inner=Inner(0)), "key.inner.size=0: expected an integer of 1 or more, or null for any."),
    ],
)
def test_the_first_value_out_of_its_range_is_named(wrong: Outer, message: str) -> None:
    with pytest.raises(InputError) as caught:
        ranges.check(wrong, "key.")
    assert str(caught.value) == message


def test_a_field_with_a_range_is_one_of_omegaconfs() -> None:
    made = OmegaConf.structured(Outer)
    assert OmegaConf.is_missing(made, "count")
    assert OmegaConf.to_object(OmegaConf.merge(made, {"count": 5})) == Outer(5)
